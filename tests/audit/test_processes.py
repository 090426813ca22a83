"""Let several processes and threads write, and kill some of them."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from sarguard.audit import AuditLog, Pace, Query
from sarguard.bench.crash_test import CrashTestResult, kill_writers
from tests.audit.ledgers import ask, check

SPAWN = multiprocessing.get_context("spawn")


def write_some(path: str, requests: int) -> None:
    with AuditLog.open(path, lock_timeout=60, pace=Pace(checkpoint_records=7)) as log:
        for _ in range(requests):
            ask(log)


def test_four_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    # They make the ledger and its key together, too.
    workers = [SPAWN.Process(target=write_some, args=(str(path), 15)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    report = check(path)
    assert report.ok, str(report)
    assert (report.unfinished, len(report.keys)) == (0, 1)
    # Each opens and closes; the first opening begins the ledger.
    assert report.size == 4 * (2 * 15 + 2)


def test_eight_threads_share_a_log_and_their_commits(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        names: list[str] = []

        def work() -> None:
            names.extend(ask(log) for _ in range(20))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(names)) == 160
        assert log.reader.count(Query(kind="request_finished")) == 160
    assert check(log.path).ok


def test_a_bad_record_among_threads_harms_no_other(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        done = ask(log)
        errors: list[Exception] = []

        def again() -> None:
            try:
                log.finished(done, outcome="refused")
            except Exception as error:
                errors.append(error)

        threads = [
            threading.Thread(target=again if place % 2 else lambda: ask(log))
            for place in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 8
        assert log.reader.count(Query(kind="request_finished")) == 9
    assert check(log.path).ok


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_writes_with_its_own_connection(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        ask(log)
        child = os.fork()
        if child == 0:
            ask(log)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        ask(log)
        writers = {entry.record.writer.instance for entry in log.entries()}
        assert len(writers) == 2
    assert check(log.path).ok


def hold(result: CrashTestResult) -> None:
    assert result.report.ok, str(result.report)
    assert result.lost == []
    assert result.report.unfinished == result.unfinished
    assert result.acknowledged > 0


def test_writers_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    hold(kill_writers(tmp_path / "a.db", rounds=2, writers=2, random=random.Random(5)))


@pytest.mark.slow
def test_four_writers_killed_a_hundred_times(tmp_path: Path) -> None:
    hold(kill_writers(tmp_path / "a.db", rounds=100, writers=4))


def test_a_writer_that_holds_the_lock_when_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with AuditLog.open(path) as log:
        ask(log)
    worker = SPAWN.Process(target=stop_while_writing, args=(str(path),))
    worker.start()
    deadline = time.monotonic() + 60
    while not (path.parent / "locked").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with AuditLog.open(path) as log:
        ask(log)
        assert log.reader.count(Query(kind="accessed")) == 0
    assert check(path).ok


def stop_while_writing(path: str) -> None:
    from sarguard.audit.storage.appender import Appender, draft

    log = AuditLog.open(path)

    def wait(appender: Appender) -> None:
        appender.write(draft("accessed", {"action": "search"}))
        (Path(path).parent / "locked").touch()
        time.sleep(600)

    recorder = log._recorder
    assert recorder is not None
    recorder.writer.transact(wait)
