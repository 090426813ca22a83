"""Kill processes while they write to a ledger, and see that nothing was lost.

Each writer says in a file of its own what the ledger acknowledged; SIGKILL gives
it no chance to tidy up.
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
from sarguard.audit.proof.report import Report
from sarguard.audit.proof.verify import verify
from sarguard.audit.storage.appender import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Say what was left after the last kill."""

    rounds: int
    writers: int
    acknowledged: int
    """Records that the ledger said were durable before a kill."""
    lost: list[str]
    """Those of them that are not there."""
    unfinished: int
    """Requests that began, and whose end is not there."""
    report: Report


def kill_writers(
    path: Path,
    *,
    rounds: int,
    writers: int,
    random: _random.Random | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Start writers, kill them all at a random moment, again and again; verify.

    Args:
        path: the ledger.
        rounds: how often to kill them.
        writers: how many processes write at once.
        random: chooses the moments.
        progress: called with the rounds done and all rounds.
    """
    chance = random or _random.Random()
    told: list[str] = []
    for done in range(1, rounds + 1):
        told += _one_round(path, writers, chance.uniform(0.0, 0.4))
        if progress is not None:
            progress(done, rounds)
    with AuditLog.open(path, read_only=True) as log:
        there: dict[str, set[str]] = {}
        for entry in log.entries():
            name = getattr(entry.record, "audit_id", None)
            if name is not None:
                there.setdefault(name, set()).add(entry.record.kind)
    lost = [line for line in told if _is_lost(line, there)]
    return Result(
        rounds=rounds,
        writers=writers,
        acknowledged=len(told),
        lost=lost,
        unfinished=sum("request_finished" not in kinds for kinds in there.values()),
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


def _is_lost(line: str, there: dict[str, set[str]]) -> bool:
    kind, name = line.split(" ")
    return kind not in there.get(name, set())


def _write_until_killed(path: str) -> None:
    log = AuditLog.open(path, lock_timeout=60, pace=Pace(checkpoint_records=16))
    while True:
        begun = log.started(entry="generate", tenant="ward")
        _tell("request_started", begun.audit_id)
        log.finished(str(begun.audit_id), outcome="answered")
        _tell("request_finished", begun.audit_id)


def _tell(kind: str, name: str | None) -> None:
    os.write(1, f"{kind} {name}\n".encode())


if __name__ == "__main__":
    _write_until_killed(sys.argv[1])
