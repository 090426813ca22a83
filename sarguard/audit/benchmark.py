"""Measure the ledger: `python -m sarguard.audit.benchmark --help`.

Each figure is given with its bar. A plain SQLite table with the same settings and the
same bytes is written beside the ledger, so that a slow disk is told from slow code.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from sarguard.audit.facts import (
    AudioFact,
    Dose,
    InputFact,
    ModelRef,
    OutputFact,
    PolicyRef,
    SteeringReceipt,
    SteeringRef,
    TimingsFact,
    UsageFact,
)
from sarguard.audit.header import Header
from sarguard.audit.identity import new_name, now_us, time_text
from sarguard.audit.killing import kill_writers
from sarguard.audit.log import AuditLog
from sarguard.audit.pen import Pen, draft
from sarguard.audit.reading import Query
from sarguard.audit.verification import verify

MARK = "ab" * 32
POLICY = PolicyRef(id="clinic", version="3", digest=f"sha256:{MARK}", tier="strict")
STARTED: dict[str, object] = {
    "entry": "generate",
    "policy": POLICY,
    "model": ModelRef(id="reference", revision="0" * 40, dtype="float32"),
    "steering": SteeringRef(bundle_digest=MARK, layers=24),
    "input": InputFact(audio=(AudioFact(mark=MARK, seconds=3.2),), text_mark=MARK),
    "tenant": "ward-1",
    "session": MARK,
}
FINISHED: dict[str, object] = {
    "outcome": "answered",
    "dose": Dose(mode="faithful", alpha=0.1),
    "receipt": SteeringReceipt(
        steered_positions=41,
        expected_positions=41,
        layers=24,
        bundle_digest=MARK,
        attested=True,
    ),
    "output": OutputFact(text_mark=MARK, text_chars=180, finish_reason="stop"),
    "usage": UsageFact(prompt_tokens=120, audio_tokens=80, output_tokens=41),
    "timings": TimingsFact(prefill_s=0.1, first_token_s=0.2, total_s=1.4),
}


def measure_appends(folder: Path, records: int) -> dict[str, float]:
    """Return the milliseconds of single, durable records, and of plain SQLite."""
    times: list[float] = []
    with AuditLog.open(folder / "append.db") as log:
        for _ in range(records // 2):
            begin = time.perf_counter()
            begun = log.started(**STARTED)  # type: ignore[arg-type]
            middle = time.perf_counter()
            log.finished(str(begun.audit_id), **FINISHED)  # type: ignore[arg-type]
            times += [middle - begin, time.perf_counter() - middle]
        size = len(log.reader.get(3).data)
    plain = _plain_appends(folder / "plain.db", records, size)
    return {
        "append_median_ms": statistics.median(times) * 1e3,
        "append_p99_ms": _share(times, 0.99) * 1e3,
        "plain_sqlite_median_ms": statistics.median(plain) * 1e3,
        "plain_sqlite_p99_ms": _share(plain, 0.99) * 1e3,
        "record_bytes": float(size),
    }


def _plain_appends(path: Path, records: int, size: int) -> list[float]:
    times = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE records (seq INTEGER PRIMARY KEY, data BLOB)")
        for _ in range(records):
            begin = time.perf_counter()
            connection.execute("INSERT INTO records (data) VALUES (?)", (bytes(size),))
            times.append(time.perf_counter() - begin)
    return times


def _share(times: Sequence[float], share: float) -> float:
    return sorted(times)[int(len(times) * share)]


def write_requests(path: str, requests: int, ready: object, go: object) -> None:
    """Write requests when told to, in a process of its own."""
    with AuditLog.open(path, lock_timeout=60) as log:
        ready.release()  # type: ignore[attr-defined]
        go.wait()  # type: ignore[attr-defined]
        for _ in range(requests):
            begun = log.started(**STARTED)  # type: ignore[arg-type]
            log.finished(str(begun.audit_id), **FINISHED)  # type: ignore[arg-type]


def measure_writers(folder: Path, writers: int, requests: int) -> dict[str, float]:
    """Return the records a second of several processes, their closing included."""
    spawn = multiprocessing.get_context("spawn")
    ready, go = spawn.Semaphore(0), spawn.Event()
    path = folder / "writers.db"
    AuditLog.open(path).close()
    given = (str(path), requests, ready, go)
    running = [spawn.Process(target=write_requests, args=given) for _ in range(writers)]
    for process in running:
        process.start()
    for _ in running:
        ready.acquire()
    begin = time.perf_counter()
    go.set()
    for process in running:
        process.join()
    taken = time.perf_counter() - begin
    if not verify(path).ok:
        raise RuntimeError(f"{path} is not valid")
    return {"writers_records_per_s": 2 * requests * writers / taken}


def build(path: Path, records: int) -> None:
    """Make a large ledger quickly: many records to a transaction."""
    with AuditLog.open(path) as log:
        recorder = log._recorder
        if recorder is None:
            raise RuntimeError("the ledger is not open to write")
        while (held := log.reader.size()) < records:
            batch = [_request(held + place) for place in range(0, 20_000, 2)]
            recorder.writer.act(lambda pen, batch=batch: _write(pen, batch))  # type: ignore[misc]
            print(f"  {held:,} records written", end="\r", file=sys.stderr)


def _request(number: int) -> tuple[Header, Header]:
    """Return a request's two drafts; few outcomes, policies and tenants are rare."""
    outcome = "refused" if number % 50 == 0 else "answered"
    if number % 10_000 == 0:
        outcome = "error_closed"
    policy = POLICY.model_copy(update={"id": f"policy-{number % 7}"})
    shared = {"audit_id": new_name("req"), "policy": policy}
    tenant = {"tenant": f"ward-{number % 40}"}
    begun = {**STARTED, **shared, **tenant}
    ended = {**FINISHED, **shared, **tenant, "session": MARK, "outcome": outcome}
    return draft("request_started", begun), draft("request_finished", ended)


def _write(pen: Pen, batch: list[tuple[Header, Header]]) -> None:
    for begun, ended in batch:
        pen.write(begun)
        pen.write(ended)
        if pen.sign_is_due():
            pen.sign()


def measure_searches(path: Path) -> dict[str, float]:
    """Return the slowest of several tries of each search, in milliseconds."""
    hour = time_text(now_us() - 3_600_000_000)
    queries = {
        "time": Query(since=hour, until=time_text(now_us())),
        "outcome": Query(outcome="error_closed"),
        "common outcome": Query(outcome="answered"),
        "policy": Query(policy="policy-3"),
        "tenant": Query(tenant="ward-7"),
        "policy and outcome": Query(policy="policy-3", outcome="refused"),
        "tenant, outcome and time": Query(
            tenant="ward-10", outcome="refused", since=hour
        ),
    }
    with AuditLog.open(path, read_only=True) as log:
        return {
            f"search by {name}, ms": _slowest(lambda q=query: list(log.search(q)))  # type: ignore[misc]
            for name, query in queries.items()
        }


def _slowest(action: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return max(times) * 1e3


def measure_verify(path: Path) -> dict[str, float]:
    """Return the seconds that verifying takes, and the records verified."""
    report = verify(path)
    if not report.ok:
        raise RuntimeError(str(report))
    megabytes = path.stat().st_size / 2**20
    return {
        "verify_s": report.seconds,
        "verified_records": float(report.records),
        "ledger_mb": megabytes,
    }


def measure_kills(folder: Path, rounds: int) -> dict[str, float]:
    """Return what kills left behind: nothing may be lost, the chain is valid."""
    result = kill_writers(folder / "killed.db", rounds=rounds, writers=4)
    return {
        "kill_rounds": float(result.rounds),
        "kill_acknowledged": float(result.acknowledged),
        "kill_lost": float(len(result.lost)),
        "kill_unfinished": float(result.unfinished),
        "kill_chain_valid": float(result.report.ok),
    }


BARS = {
    "append_median_ms": "<= 1",
    "append_p99_ms": "<= 20",
    "writers_records_per_s": ">= 500",
    "verify_s": "< 30 for a million records",
    "kill_lost": "0",
    "kill_chain_valid": "1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(description="Measure the ledger.")
    parser.add_argument("--appends", type=int, default=2000, help="0 to skip")
    parser.add_argument("--writers", type=int, default=8, help="0 to skip")
    parser.add_argument("--records", type=int, default=1_000_000, help="0 to skip")
    parser.add_argument("--kills", type=int, default=0, help="rounds of four writers")
    parser.add_argument("--folder", type=Path, help="where to write; a local disk")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        found = _measure(Path(name), asked)
    if asked.json:
        print(json.dumps(found))
    else:
        for what, value in found.items():
            bar = BARS.get(what, "< 200" if what.startswith("search") else "")
            print(f"{what:34} {value:14,.3f}  {bar}")
    return 0


def _measure(folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    found: dict[str, float] = {}
    if asked.appends:
        found |= measure_appends(folder, asked.appends)
    if asked.writers:
        found |= measure_writers(folder, asked.writers, 200)
    if asked.kills:
        found |= measure_kills(folder, asked.kills)
    if asked.records:
        build(folder / "large.db", asked.records)
        found |= measure_verify(folder / "large.db")
        found |= measure_searches(folder / "large.db")
    return found


if __name__ == "__main__":
    sys.exit(main())
