"""Benchmark of the ledger: `python -m sarguard.bench.ledger --help`.

Each figure is given with its target. A plain SQLite table with the same settings and
the same bytes is written beside the ledger, to tell a slow disk from slow code.
Give `--folder` on the disk that is to be measured: a folder in memory flushes nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import operator
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from sarguard.audit.log import AuditLog
from sarguard.audit.proof.verify import Progress, verify
from sarguard.audit.records.fields import (
    AppliedDose,
    AudioDescription,
    Durations,
    Header,
    InputDescription,
    ModelRef,
    OutputDescription,
    PolicyRef,
    SteeringReceipt,
    SteeringRef,
    TokenCounts,
)
from sarguard.audit.records.ids import new_name, now_us, time_text
from sarguard.audit.storage.appender import Appender, draft
from sarguard.audit.storage.query import Query
from sarguard.bench.crash_test import kill_writers

PSEUDONYM = "ab" * 32
POLICY = PolicyRef(
    id="clinic", version="3", digest=f"sha256:{PSEUDONYM}", tier="strict"
)
STARTED: dict[str, object] = {
    "entry": "generate",
    "policy": POLICY,
    "model": ModelRef(id="reference", revision="0" * 40, dtype="float32"),
    "steering": SteeringRef(bundle_digest=PSEUDONYM, layers=24),
    "input": InputDescription(
        audio=(AudioDescription(mark=PSEUDONYM, seconds=3.2),), text_mark=PSEUDONYM
    ),
    "tenant": "ward-1",
    "session": PSEUDONYM,
}
FINISHED: dict[str, object] = {
    "outcome": "answered",
    "dose": AppliedDose(mode="faithful", alpha=0.1),
    "receipt": SteeringReceipt(
        steered_positions=41,
        expected_positions=41,
        layers=24,
        bundle_digest=PSEUDONYM,
        attested=True,
    ),
    "output": OutputDescription(
        text_mark=PSEUDONYM, text_chars=180, finish_reason="stop"
    ),
    "usage": TokenCounts(prompt_tokens=120, audio_tokens=80, output_tokens=41),
    "timings": Durations(prefill_s=0.1, first_token_s=0.2, total_s=1.4),
}


BATCH = 20_000
"""Records to a transaction where a large ledger is made."""


def ignore(_done: int, _total: int) -> None:
    """Show no progress."""


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
        "append, median, ms": statistics.median(times) * 1e3,
        "append, p99, ms": _share(times, 0.99) * 1e3,
        "plain SQLite table, median, ms": statistics.median(plain) * 1e3,
        "plain SQLite table, p99, ms": _share(plain, 0.99) * 1e3,
        "record, bytes": float(size),
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
    return {f"{writers} writers, records/s": 2 * requests * writers / taken}


def build(path: Path, records: int, progress: Progress = ignore) -> None:
    """Make a large ledger quickly: many records to a transaction."""
    with AuditLog.open(path) as log:
        recorder = log._recorder
        if recorder is None:
            raise RuntimeError("the ledger is not open to write")
        while (size := log.reader.size()) < records:
            wanted = min(BATCH, records - size)
            batch = [_request(size + place) for place in range(0, wanted, 2)]
            recorder.writer.transact(partial(_write, batch))
            progress(size + wanted, records)


def _request(number: int) -> tuple[Header, Header]:
    """Return a request's two drafts; few outcomes, policies and tenants are rare."""
    outcome = "refused" if number % 50 == 0 else "answered"
    if number % 10_000 == 0:
        outcome = "error_closed"
    policy = POLICY.model_copy(update={"id": f"policy-{number % 7}"})
    shared = {"audit_id": new_name("req"), "policy": policy}
    tenant = {"tenant": f"ward-{number % 40}"}
    begun = {**STARTED, **shared, **tenant}
    ended = {**FINISHED, **shared, **tenant, "session": PSEUDONYM, "outcome": outcome}
    return draft("request_started", begun), draft("request_finished", ended)


def _write(batch: list[tuple[Header, Header]], appender: Appender) -> None:
    for begun, ended in batch:
        appender.write(begun)
        appender.write(ended)
        if appender.sign_is_due():
            appender.sign()


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
        "policy and rare outcome": Query(policy="policy-3", outcome="error_closed"),
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


def measure_verify(path: Path, progress: Progress = ignore) -> dict[str, float]:
    """Return the seconds that verifying takes, and the records verified."""
    report = verify(path, progress=progress)
    if not report.ok:
        raise RuntimeError(str(report))
    return {
        "ledger, records": float(report.records),
        "ledger, MiB": path.stat().st_size / 2**20,
        "verify, s": report.seconds,
        "verify, s a million records": report.seconds / report.records * 1e6,
    }


def measure_kills(
    folder: Path, rounds: int, progress: Progress = ignore
) -> dict[str, float]:
    """Return what kills left behind: nothing may be lost, the chain is valid."""
    result = kill_writers(
        folder / "killed.db", rounds=rounds, writers=4, progress=progress
    )
    return {
        "kill -9, rounds of 4 writers": float(result.rounds),
        "kill -9, records acknowledged": float(result.acknowledged),
        "kill -9, records lost": float(len(result.lost)),
        "kill -9, requests left open": float(result.unfinished),
        "kill -9, problems in the chain": float(result.report.problem_count),
    }


TARGETS = {
    "append, median, ms": ("<=", 1.0),
    "append, p99, ms": ("<=", 20.0),
    "8 writers, records/s": (">=", 500.0),
    "verify, s a million records": ("<", 30.0),
    "kill -9, records lost": ("<=", 0.0),
    "kill -9, problems in the chain": ("<=", 0.0),
}
"""Targets of figures; every search has to take less than 200 ms."""
_COMPARE = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}


def target_of(figure: str) -> tuple[str, float] | None:
    """Return the target of a figure, if it has one."""
    return ("<", 200.0) if figure.startswith("search") else TARGETS.get(figure)


def write_table(found: Mapping[str, float]) -> None:
    """Print each figure with its target, and whether it is met."""
    table = Table("figure", "found", "bar", "met", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for figure, value in found.items():
        target = target_of(figure)
        shown = (
            f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"
        )
        cells = ("", "")
        if target is not None:
            sign, limit = target
            met = _COMPARE[sign](value, limit)
            cells = (f"{sign} {limit:g}", "yes" if met else "NO")
        table.add_row(figure, shown, *cells)
    Console(width=90).print(table)


@contextmanager
def showing(what: str) -> Iterator[Progress]:
    """Show how far a long step is, on a terminal's stderr."""
    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


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
        write_table(found)
    return 0


def _measure(folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    found: dict[str, float] = {}
    if asked.appends:
        found |= measure_appends(folder, asked.appends)
    if asked.writers:
        found |= measure_writers(folder, asked.writers, 200)
    if asked.kills:
        with showing("killing writers") as progress:
            found |= measure_kills(folder, asked.kills, progress)
    if asked.records:
        with showing("writing a large ledger") as progress:
            build(folder / "large.db", asked.records, progress)
        with showing("verifying it") as progress:
            found |= measure_verify(folder / "large.db", progress)
        found |= measure_searches(folder / "large.db")
    return found


if __name__ == "__main__":
    sys.exit(main())
