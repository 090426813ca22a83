"""Verify a whole ledger: every byte, hash, link, tree, signature and table."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from sarguard.audit.proof.chain_check import ChainCheck, DeletedRange
from sarguard.audit.proof.report import Problems, VerificationReport, not_proven
from sarguard.audit.proof.signed_notes import Checkpoint, VerifierKey
from sarguard.audit.storage.database import (
    SCHEMA,
    TABLES,
    last_seq,
    open_reader,
    stored_bytes,
)
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
) -> VerificationReport:
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
        ThreadPoolExecutor(max_workers=1) as executor,
    ):
        file_check = executor.submit(_check_file, Path(path))
        chain = _check_chain(connection, outside, problems, progress)
        for text in file_check.result():
            problems.add("damaged", f"the file is damaged: {text}")
    anchored = _check_outside(chain, outside)
    _check_key(chain, trusted)
    return VerificationReport(
        path=str(path),
        origin=chain.origin,
        size=chain.size,
        records=chain.read,
        buried=chain.deleted,
        root="" if chain.broken else chain.tree.root().hex(),
        keys=tuple(map(str, chain.keys)),
        checkpoints=chain.checked,
        signed_size=chain.signed,
        anchored_size=anchored,
        unfinished=len(chain.open_requests),
        unrecorded=chain.unrecorded,
        problem_count=problems.count,
        problems=tuple(problems.kept),
        not_proven=not_proven(
            size=chain.size,
            signed=chain.signed,
            anchored=anchored,
            key=trusted is not None,
        ),
        seconds=time.monotonic() - began,
    )


def _check_chain(
    connection: sqlite3.Connection,
    outside: list[Checkpoint],
    problems: Problems,
    progress: Progress | None,
) -> ChainCheck:
    chain = ChainCheck(problems, {}, {})
    try:
        # One snapshot: records that are written meanwhile are left out as a whole.
        connection.execute("BEGIN")
        _check_tables(connection, problems)
        chain.tiles = dict(connection.execute("SELECT tile, root FROM tiles"))
        _collect_checkpoints(connection, chain, outside)
        _read_all(connection, chain, progress)
        _check_leftovers(chain)
    except (sqlite3.Error, OverflowError) as error:
        problems.add(
            "damaged", f"the file is damaged after record {chain.size}: {error}"
        )
    return chain


def _check_tables(connection: sqlite3.Connection, problems: Problems) -> None:
    """Compare tables, indexes and triggers with what the library makes."""
    found = {
        name: (sql, table)
        for name, sql, table in connection.execute(
            "SELECT name, sql, tbl_name FROM sqlite_master WHERE sql IS NOT NULL"
        )
    }
    for name, sql in SCHEMA.items():
        # Without a trigger records can be changed; one that was added may change them.
        if found.get(name, ("", ""))[0] != sql:
            problems.add("tables", f"the table, index or trigger {name} was changed")
    for name, (_, table) in found.items():
        if name not in SCHEMA and table in TABLES:
            problems.add("tables", f"{name} was added to the ledger's tables")


def _collect_checkpoints(
    connection: sqlite3.Connection, chain: ChainCheck, outside: Iterable[Checkpoint]
) -> None:
    for size, note in connection.execute("SELECT size, note FROM checkpoints"):
        try:
            checkpoint = Checkpoint.parse(note)
        except (AuditError, TypeError, AttributeError) as error:
            chain.problems.add("checkpoint", f"checkpoint {size}: {error}", size)
            continue
        if checkpoint.size != size:
            chain.problems.add("checkpoint", f"checkpoint {size} is of another size")
        chain.checkpoints.setdefault(checkpoint.size, []).append(checkpoint)
    for checkpoint in outside:
        chain.checkpoints.setdefault(checkpoint.size, []).append(checkpoint)


def _deleted_ranges(
    connection: sqlite3.Connection, problems: Problems
) -> Iterator[DeletedRange]:
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
        yield DeletedRange(first, last, blob)


def _read_all(
    connection: sqlite3.Connection, chain: ChainCheck, progress: Progress | None
) -> None:
    deleted = list(_deleted_ranges(connection, chain.problems))
    size = last_seq(connection)
    # Not through `Entry`: a million records are read, one tuple each.
    for row in connection.execute(
        "SELECT seq, record, kind, time, audit_id, tenant, policy, outcome "
        "FROM records ORDER BY seq"
    ):
        seq, data = row[0], row[1]
        if seq != chain.size + 1:
            _cross_gap(chain, seq, deleted)
            if seq <= chain.size:
                chain.problems.add(
                    "number", f"there is a record {seq}, out of order", seq
                )
                continue
        chain.take(seq, stored_bytes(data), row[2:])
        if progress is not None and seq % _EVERY == 0:
            progress(seq, size)
    _cross_gap(chain, size + 1, deleted)


def _cross_gap(chain: ChainCheck, seq: int, deleted: list[DeletedRange]) -> None:
    """Skip what retention deleted, and what is missing, up to a record."""
    while deleted and deleted[0].first < seq:
        gone = deleted.pop(0)
        if gone.first > chain.size + 1:
            chain.skip_missing(chain.size + 1, gone.first - 1)
        chain.skip_deleted(gone)
    if seq > chain.size + 1:
        chain.skip_missing(chain.size + 1, seq - 1)


def _check_leftovers(chain: ChainCheck) -> None:
    """Check what can be checked only after the last record."""
    chain.report_gaps()
    chain.check_deferred()
    for (first, last), root in chain.deleted_roots.items():
        recorded = chain.tombstones.get((first, last))
        if recorded is None:
            chain.problems.add(
                "burial", f"records {first} to {last} are deleted without a tombstone"
            )
        elif recorded != root and not chain.broken:
            chain.problems.add(
                "burial", f"the hashes of records {first} to {last} were changed"
            )
    if not chain.broken:
        for tile in sorted(chain.tiles):
            chain.problems.add(
                "tile", f"there is a hash {tile} of records that are not"
            )


def _check_outside(chain: ChainCheck, outside: list[Checkpoint]) -> int:
    """Check checkpoints that go beyond the end; return what valid copies cover."""
    for size, left in sorted(chain.checkpoints.items()):
        if size > chain.size:
            chain.problems.add(
                "truncated",
                f"records {chain.size + 1} to {size} are missing from the end: a "
                f"checkpoint of size {size} was signed",
            )
        elif chain.broken and left:
            chain.problems.add(
                "checkpoint", f"the checkpoint of size {size} cannot be checked"
            )
        elif size < 1:
            chain.problems.add("checkpoint", f"there is a checkpoint of size {size}")
    return max((copy.size for copy in outside if copy in chain.proven), default=0)


def _check_key(chain: ChainCheck, trusted: VerifierKey | None) -> None:
    # Any key of the chain: a key got before a rotation vouches for the later ones.
    if trusted is not None and trusted not in chain.keys:
        chain.problems.add(
            "key",
            f"the ledger is signed by {' then '.join(map(str, chain.keys)) or 'nobody'}"
            f", not by the key that was given, {trusted}",
        )


def _check_file(path: Path) -> list[str]:
    """Let SQLite compare its indexes with its tables: a search must not miss any.

    SQLite does this without holding the interpreter's lock, so that it takes no extra
    time on another thread.
    """
    try:
        with closing(open_reader(path)) as connection:
            found = connection.execute("PRAGMA integrity_check(10)").fetchall()
    except (sqlite3.Error, AuditError) as error:
        return [str(error)]
    return [text for (text,) in found if text != "ok"]
