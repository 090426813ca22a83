"""Make ledgers for tests, and change their files behind the library's back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sarguard.audit import AuditLog, Pace
from sarguard.audit.proof.mirror import FileMirror
from sarguard.audit.proof.report import VerificationReport
from sarguard.audit.proof.verify import verify
from sarguard.audit.records.fields import ModelRef, PolicyRef, TokenCounts
from sarguard.audit.storage.database import TRIGGERS

POLICY = PolicyRef(id="clinic", version="3", digest="sha256:" + "a" * 64, tier="strict")
MODEL = ModelRef(id="reference", revision="r1")

REQUESTS = 12


def ask(log: AuditLog, **given: Any) -> str:  # noqa: ANN401
    """Record a whole request; return its name."""
    fields = {"entry": "generate", "policy": POLICY, "model": MODEL, "tenant": "ward"}
    begun = log.started(**{**fields, **given})
    assert begun.audit_id is not None
    log.finished(
        begun.audit_id,
        outcome="answered",
        usage=TokenCounts(prompt_tokens=5, output_tokens=7),
    )
    return begun.audit_id


def fill(path: Path, *, pace: Pace | None = None, requests: int = REQUESTS) -> Path:
    """Make a ledger with requests, two segments, a review and a mirror."""
    mirror = path.with_name("mirror.txt")
    with AuditLog.open(path, mirror=mirror, pace=pace) as log:
        for number in range(requests):
            name = ask(log)
            if number == requests // 2:
                log.seal_segment()
        log.event(
            "reviewed",
            request=name,
            about_seq=log.request(name)[-1].seq,
            label="over_refusal",
            reviewer="dr-ito",
            note="should have answered",
        )
    return path


def copy_of(path: Path, folder: Path) -> Path:
    """Copy a ledger with its key and mirror."""
    for name in (path.name, f"{path.name}.key", "mirror.txt"):
        shutil.copy(path.with_name(name), folder / name)
    return folder / path.name


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Change a ledger's file as a careful attacker does: the triggers are put back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in TRIGGERS:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for statement in TRIGGERS.values():
            connection.execute(statement)


def rewrite(path: Path, seq: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a record's content, and file it under its new values."""
    with opened(path) as connection:
        (data,) = connection.execute(
            "SELECT record FROM records WHERE seq = ?", (seq,)
        ).fetchone()
        record = json.loads(data)
        change(record)
        store(connection, seq, record)


def store(connection: sqlite3.Connection, seq: int, record: dict[str, Any]) -> bytes:
    """Put a record's bytes and columns in place of those there."""
    from sarguard.audit.records.ids import time_us

    data = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    connection.execute(
        "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            seq,
            data,
            record["kind"],
            time_us(record["time"]),
            record.get("audit_id"),
            record.get("tenant"),
            record.get("policy", {}).get("id"),
            record.get("outcome"),
        ),
    )
    return data


def codes(report: VerificationReport) -> set[str]:
    """Return what kinds of problem a report holds."""
    return {problem.code for problem in report.problems}


def check(path: Path, *, anchored: bool = False) -> VerificationReport:
    """Verify a ledger, against its mirror or alone."""
    mirror = FileMirror(path.with_name("mirror.txt"))
    return verify(path, expect=mirror.checkpoints() if anchored else ())
