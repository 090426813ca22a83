"""Verify a whole ledger: every byte, hash, link, tree, signature and table."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from sarguard.audit.proof.chain_check import Burial, Walk
from sarguard.audit.proof.report import Problems, Report, not_proven
from sarguard.audit.proof.signed_notes import Checkpoint, VerifierKey
from sarguard.audit.storage.database import SCHEMA, open_reader, stored_bytes
from sarguard.errors import AuditError

Progress = Callable[[int, int], None]
"""Called with the records checked so far and the ledger's size."""

_EVERY = 10_000


def verify(
    path: str | Path,
    *,
    key: VerifierKey | str | None = None,
    expect: Iterable[Checkpoint] = (),
    progress: Progress | None = None,
) -> Report:
    """Verify a ledger, reading it once from its first record to its last.

    Args:
        path: the ledger's file.
        key: the key that the ledger must be signed with; without it, the key that
            the ledger names itself is believed.
        expect: checkpoints kept outside the ledger, which it must fit.
        progress: called now and then.

    Raises:
        AuditNotFoundError: if there is no file.
        AuditFormatError: if it is foreign or from a newer version, or too damaged
            to be opened.
        AuditKeyError: if the key is malformed.
    """
    began = time.monotonic()
    trusted = VerifierKey.parse(key) if isinstance(key, str) else key
    problems = Problems()
    outside = list(expect)
    with (
        closing(open_reader(Path(path))) as connection,
        ThreadPoolExecutor(max_workers=1) as beside,
    ):
        file = beside.submit(_check_file, Path(path))
        walk = _walk(connection, outside, problems, progress)
        for text in file.result():
            problems.add("damaged", f"the file is damaged: {text}")
    anchored = _check_outside(walk, outside)
    _check_key(walk, trusted)
    return Report(
        path=str(path),
        origin=walk.origin,
        size=walk.size,
        records=walk.read,
        buried=walk.buried,
        root="" if walk.broken else walk.tree.root().hex(),
        keys=tuple(map(str, walk.keys)),
        checkpoints=walk.checked,
        signed_size=walk.signed,
        anchored_size=anchored,
        unfinished=len(walk.open_requests),
        unrecorded=walk.unrecorded,
        problem_count=problems.count,
        problems=tuple(problems.kept),
        not_proven=not_proven(
            size=walk.size,
            signed=walk.signed,
            anchored=anchored,
            key=trusted is not None,
        ),
        seconds=time.monotonic() - began,
    )


def _walk(
    connection: sqlite3.Connection,
    outside: list[Checkpoint],
    problems: Problems,
    progress: Progress | None,
) -> Walk:
    walk = Walk(problems, {}, {})
    try:
        connection.execute("BEGIN")
        _check_tables(connection, problems)
        walk.tiles = dict(connection.execute("SELECT tile, root FROM tiles"))
        _gather(connection, walk, outside)
        _read_all(connection, walk, progress)
        _check_leftovers(walk)
    except (sqlite3.Error, OverflowError) as error:
        problems.add(
            "damaged", f"the file is damaged after record {walk.size}: {error}"
        )
    return walk


def _check_tables(connection: sqlite3.Connection, problems: Problems) -> None:
    """Hold tables, indexes and triggers to what the library made."""
    found = {
        name: (sql, table)
        for name, sql, table in connection.execute(
            "SELECT name, sql, tbl_name FROM sqlite_master WHERE sql IS NOT NULL"
        )
    }
    for name, sql in SCHEMA.items():
        if found.get(name, ("", ""))[0] != sql:
            problems.add("tables", f"the table, index or trigger {name} was changed")
    core = {"records", "tiles", "checkpoints", "burials", "spools"}
    for name, (_, table) in found.items():
        if name not in SCHEMA and table in core:
            problems.add("tables", f"{name} was added to the ledger's tables")


def _gather(
    connection: sqlite3.Connection, walk: Walk, outside: Iterable[Checkpoint]
) -> None:
    for size, note in connection.execute("SELECT size, note FROM checkpoints"):
        try:
            checkpoint = Checkpoint.parse(note)
        except (AuditError, TypeError, AttributeError) as error:
            walk.problems.add("checkpoint", f"checkpoint {size}: {error}", size)
            continue
        if checkpoint.size != size:
            walk.problems.add("checkpoint", f"checkpoint {size} is of another size")
        walk.checkpoints.setdefault(checkpoint.size, []).append(checkpoint)
    for checkpoint in outside:
        walk.checkpoints.setdefault(checkpoint.size, []).append(checkpoint)


def _burials(connection: sqlite3.Connection, problems: Problems) -> Iterator[Burial]:
    last_before = 0
    for first, last, blob in connection.execute(
        "SELECT first_seq, last_seq, leaves FROM burials ORDER BY first_seq"
    ):
        if first <= last_before or len(blob) != 32 * (last - first + 1):
            problems.add(
                "burial", f"the hashes of records {first} to {last} are damaged"
            )
            continue
        last_before = last
        yield Burial(first, last, blob)


def _read_all(
    connection: sqlite3.Connection, walk: Walk, progress: Progress | None
) -> None:
    graves = list(_burials(connection, walk.problems))
    (size,) = connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()
    for row in connection.execute(
        "SELECT seq, record, kind, time, audit_id, tenant, policy, outcome "
        "FROM records ORDER BY seq"
    ):
        seq, data = row[0], row[1]
        if seq != walk.size + 1:
            _cross_gap(walk, seq, graves)
            if seq <= walk.size:
                told = f"there is a record {seq}, out of order"
                walk.problems.add("number", told, seq)
                continue
        walk.take(seq, stored_bytes(data), row[2:])
        if progress is not None and seq % _EVERY == 0:
            progress(seq, size)
    _cross_gap(walk, size + 1, graves)


def _cross_gap(walk: Walk, seq: int, graves: list[Burial]) -> None:
    """Go over what retention deleted, and over what is missing, up to a record."""
    while graves and graves[0].first < seq:
        grave = graves.pop(0)
        if grave.first > walk.size + 1:
            walk.miss(walk.size + 1, grave.first - 1)
        walk.bury(grave)
    if seq > walk.size + 1:
        walk.miss(walk.size + 1, seq - 1)


def _check_leftovers(walk: Walk) -> None:
    """Check what had no record to be checked with."""
    walk.name_gaps()
    walk.check_deferred()
    for (first, last), root in walk.graves.items():
        told = walk.tombstones.get((first, last))
        if told is None:
            walk.problems.add(
                "burial", f"records {first} to {last} are deleted without a tombstone"
            )
        elif told != root and not walk.broken:
            walk.problems.add(
                "burial", f"the hashes of records {first} to {last} were changed"
            )
    if not walk.broken:
        for tile in sorted(walk.tiles):
            walk.problems.add("tile", f"there is a hash {tile} of records that are not")


def _check_outside(walk: Walk, outside: list[Checkpoint]) -> int:
    """Check checkpoints that go beyond the end; return what valid copies cover."""
    for size, left in sorted(walk.checkpoints.items()):
        if size > walk.size:
            walk.problems.add(
                "truncated",
                f"records {walk.size + 1} to {size} are missing from the end: a "
                f"checkpoint of size {size} was signed",
            )
        elif walk.broken and left:
            walk.problems.add(
                "checkpoint", f"the checkpoint of size {size} cannot be checked"
            )
        elif size < 1:
            walk.problems.add("checkpoint", f"there is a checkpoint of size {size}")
    return max((copy.size for copy in outside if copy in walk.proven), default=0)


def _check_key(walk: Walk, trusted: VerifierKey | None) -> None:
    if trusted is not None and trusted not in walk.keys:
        walk.problems.add(
            "key",
            f"the ledger is signed by {' then '.join(map(str, walk.keys)) or 'nobody'}"
            f", not by the key that was given, {trusted}",
        )


def _check_file(path: Path) -> list[str]:
    """Let SQLite compare its indexes with its tables: a search must not miss any.

    SQLite does this without holding Python's lock, so it costs no time beside the walk.
    """
    try:
        with closing(open_reader(path)) as connection:
            found = connection.execute("PRAGMA integrity_check(10)").fetchall()
    except (sqlite3.Error, AuditError) as error:
        return [str(error)]
    return [text for (text,) in found if text != "ok"]
