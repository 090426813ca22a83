"""Crash test of the ledger: processes are killed while they write; nothing may be lost.

Each writer notes in a file of its own what the ledger acknowledged; SIGKILL gives it no
chance to clean up.
"""

from __future__ import annotations

import os
import random as _random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sarguard.audit.log import AuditLog
from sarguard.audit.proof.report import VerificationReport
from sarguard.audit.proof.verify import verify
from sarguard.audit.storage.appender import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashTestResult:
    """What was left after the last kill."""

    rounds: int
    writers: int
    acknowledged: int
    """Records that the ledger said were durable before a kill."""
    lost: list[str]
    """Those of them that are not in the ledger."""
    unfinished: int
    """Requests that began and have no outcome."""
    report: VerificationReport


def kill_writers(
    path: Path,
    *,
    rounds: int,
    writers: int,
    random: _random.Random | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CrashTestResult:
    """Start writers, kill them all at a random moment, again and again; verify.

    Args:
        path: the ledger.
        rounds: how often to kill them.
        writers: how many processes write at once.
        random: chooses the moments.
        progress: called with the rounds done and all rounds.
    """
    moments = random or _random.Random()
    acknowledged: list[str] = []
    for done in range(1, rounds + 1):
        acknowledged += _one_round(path, writers, moments.uniform(0.0, 0.4))
        if progress is not None:
            progress(done, rounds)
    with AuditLog.open(path, read_only=True) as log:
        stored: dict[str, set[str]] = {}
        for entry in log.entries():
            name = getattr(entry.record, "audit_id", None)
            if name is not None:
                stored.setdefault(name, set()).add(entry.record.kind)
    lost = [line for line in acknowledged if _is_lost(line, stored)]
    return CrashTestResult(
        rounds=rounds,
        writers=writers,
        acknowledged=len(acknowledged),
        lost=lost,
        unfinished=sum("request_finished" not in kinds for kinds in stored.values()),
        report=verify(path),
    )


def _one_round(path: Path, writers: int, seconds: float) -> list[str]:
    """Run writers until each has written, then a little longer; kill them."""
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(tempfile.TemporaryFile()) for _ in range(writers)
        ]
        _run_and_kill(path, outputs, seconds)
        return [line for output in outputs for line in _whole_lines(output)]


def _run_and_kill(path: Path, outputs: Sequence[IO[bytes]], seconds: float) -> None:
    program = [sys.executable, "-m", "sarguard.bench.crash_test", str(path)]
    running = [subprocess.Popen(program, stdout=output) for output in outputs]
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not all(
            os.fstat(output.fileno()).st_size for output in outputs
        ):
            if any(process.poll() is not None for process in running):
                raise RuntimeError(f"a writer to {path} ended by itself")
            time.sleep(0.005)
        time.sleep(seconds)
    finally:
        for process in running:
            process.send_signal(signal.SIGKILL)
        for process in running:
            process.wait()


def _whole_lines(output: IO[bytes]) -> list[str]:
    output.seek(0)
    whole, _, _ = output.read().decode().rpartition("\n")
    return [line for line in whole.split("\n") if line]


def _is_lost(line: str, stored: dict[str, set[str]]) -> bool:
    kind, name = line.split(" ")
    return kind not in stored.get(name, set())


def _write_until_killed(path: str) -> None:
    log = AuditLog.open(path, lock_timeout=60, pace=Pace(checkpoint_records=16))
    while True:
        started = log.started(entry="generate", tenant="ward")
        _note("request_started", started.audit_id)
        log.finished(str(started.audit_id), outcome="answered")
        _note("request_finished", started.audit_id)


def _note(kind: str, name: str | None) -> None:
    # Unbuffered: what was noted survives the kill.
    os.write(1, f"{kind} {name}\n".encode())


if __name__ == "__main__":
    _write_until_killed(sys.argv[1])
