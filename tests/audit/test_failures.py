"""Break the disk, the lock, the clock and the spool; the policy decides, aloud."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sarguard.audit import AuditLog, Pace, Query
from sarguard.audit.proof.mirror import FileMirror
from sarguard.audit.proof.signing_keys import SigningKey
from sarguard.audit.proof.verify import verify
from sarguard.audit.records.fields import Score
from sarguard.audit.storage import appender
from sarguard.audit.storage.database import APPLICATION_ID
from sarguard.audit.storage.write_errors import cause_of
from sarguard.errors import (
    AuditFormatError,
    AuditNotFoundError,
    AuditRecordError,
    AuditWriteError,
    ConfigurationError,
)
from tests.audit.ledgers import POLICY, ask, check, codes, fill
from tests.logs import capture_logs


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the ledger's write lock, as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def full(log: AuditLog) -> Iterator[None]:
    """Let the ledger's file grow no further, as on a full disk."""
    recorder = log._recorder
    assert recorder is not None
    connection = recorder.writer._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    yield
    connection = recorder.writer._connection
    if connection is not None:
        connection.execute("PRAGMA max_page_count = 1073741823")


BIG = {"note": "x" * 1900}


def write_big(log: AuditLog, times: int = 40) -> None:
    for _ in range(times):
        log.event("reviewed", request="r", about_seq=1, label="ok", reviewer="a", **BIG)


class TestBlock:
    def test_a_held_lock_blocks_and_leaves_no_trace(self, tmp_path: Path) -> None:
        with AuditLog.open(tmp_path / "a.db", lock_timeout=0.05) as log:
            with held(log.path), pytest.raises(AuditWriteError) as caught:
                log.started(entry="generate")
            assert caught.value.cause == "lock_timeout"
            assert log.reader.size() == 1
            ask(log)
        assert check(log.path).ok

    def test_a_full_disk_blocks_and_the_ledger_goes_on_later(
        self, tmp_path: Path
    ) -> None:
        with AuditLog.open(tmp_path / "a.db") as log:
            with full(log), pytest.raises(AuditWriteError) as caught:
                write_big(log)
            assert caught.value.cause == "disk_full"
            ask(log)
        report = check(log.path)
        assert report.ok, str(report)

    def test_a_file_size_limit_of_the_system(self, tmp_path: Path) -> None:
        """Let the kernel refuse to write: real errors, in a process of its own."""
        code = (
            "import sys, resource, signal\n"
            "from sarguard.audit import AuditLog\n"
            "from sarguard.errors import AuditWriteError\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "log = AuditLog.open(sys.argv[1])\n"
            "limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limit))\n"
            "done = 0\n"
            "try:\n"
            "    while True:\n"
            "        seq = log.started(entry='generate').seq\n"
            "except AuditWriteError as error:\n"
            "    print(seq, error.cause)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
            "print(log.started(entry='generate').seq)\n"
            "log.close()\n"
        )
        path = tmp_path / "a.db"
        program = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.strip().splitlines()[-2:]
        seq, cause = first.split()
        assert cause in ("disk_full", "io_error")
        assert int(second) == int(seq) + 1
        report = check(path)
        assert report.ok, str(report)
        assert report.unfinished == int(second) - 1
        assert hasattr(resource, "RLIMIT_FSIZE")
        assert hasattr(signal, "SIGXFSZ")

    def test_a_read_only_file(self, tmp_path: Path) -> None:
        with AuditLog.open(tmp_path / "a.db") as log:
            recorder = log._recorder
            assert recorder is not None
            connection = recorder.writer._connection
            assert connection is not None
            connection.execute("PRAGMA query_only = ON")
            with pytest.raises(AuditWriteError) as caught:
                ask(log)
            assert caught.value.cause == "read_only"
            ask(log)

    def test_an_input_output_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with AuditLog.open(tmp_path / "a.db") as log:
            name = log.started(entry="generate").audit_id
            assert name is not None
            real = appender.Appender.write
            monkeypatch.setattr(appender.Appender, "write", fail_with("disk I/O error"))
            with pytest.raises(AuditWriteError) as caught:
                log.finished(name, outcome="answered")
            assert caught.value.cause == "io_error"
            monkeypatch.setattr(appender.Appender, "write", real)
            assert next(iter(log.unfinished())).record.kind == "request_started"
            log.finished(name, outcome="error_closed", reason="audit")
            assert list(log.unfinished()) == []

    def test_closed_means_closed(self, tmp_path: Path) -> None:
        log = AuditLog.open(tmp_path / "a.db")
        log.close()
        log.close()
        with pytest.raises(AuditWriteError, match="closed"):
            log.started(entry="generate")
        reader = AuditLog.open(tmp_path / "a.db", read_only=True)
        with pytest.raises(AuditWriteError, match="reading only"):
            reader.event("accessed", action="search")
        reader.close()


def fail_with(text: str) -> Any:  # noqa: ANN401
    def fail(*given: object, **named: object) -> None:
        raise sqlite3.OperationalError(text)

    return fail


class TestSpool:
    def test_records_wait_and_come_back_once(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        with AuditLog.open(path, on_failure="spool", lock_timeout=0.02) as log:
            with held(path), capture_logs() as logs:
                begun = log.started(entry="generate", policy=POLICY, tenant="ward")
                assert begun.audit_id is not None
                done = log.finished(begun.audit_id, outcome="refused")
            assert (begun.state, begun.seq) == ("spooled", None)
            assert done.state == "spooled"
            assert {entry["event"] for entry in logs} == {"audit_spooled"}
            assert log.reader.size() == 1
            ask(log)
            first, last = (entry.record for entry in log.request(begun.audit_id))
            assert first.spooled == min(first.spooled or "", first.time)
            assert getattr(last, "outcome", None) == "refused"
            assert getattr(last, "tenant", None) == "ward"
            (told,) = log.search(Query(kind="log_recovered"))
            assert getattr(told.record, "cause", "") == "spool_drained"
        assert not path.with_name("a.db.spool").exists()
        assert check(path).ok

    def test_a_full_spool_blocks(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        with (
            AuditLog.open(
                path, on_failure="spool", spool_limit=2, lock_timeout=0.02
            ) as log,
            held(path),
        ):
            log.started(entry="generate")
            log.started(entry="generate")
            with pytest.raises(AuditWriteError, match="holds 2 of 2"):
                log.started(entry="generate")
        assert check(path).unfinished == 2

    def test_a_spool_outlives_its_process(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        fill(path)
        log = AuditLog.open(path, on_failure="spool", lock_timeout=0.02)
        with held(path):
            log.started(entry="generate", request_id="left behind")
        recorder = log._recorder
        assert recorder is not None
        recorder.cancel_signing()
        recorder.writer.close()
        log._recorder = None
        with AuditLog.open(path) as again:
            (found,) = again.search(Query(containing="left behind"))
        assert found.record.spooled is not None
        assert check(path).ok

    def test_a_crash_between_writing_and_emptying(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sarguard.audit.storage.spool import Spool

        path = tmp_path / "a.db"
        log = AuditLog.open(path, on_failure="spool", lock_timeout=0.02)
        with held(path):
            log.event("accessed", action="search")
            log.started(entry="generate")

        def crash(self: Spool) -> None:
            raise KeyboardInterrupt

        real = Spool.empty
        monkeypatch.setattr(Spool, "empty", crash)
        with pytest.raises(KeyboardInterrupt):
            log.event("accessed", action="again")
        monkeypatch.setattr(Spool, "empty", real)
        log.event("accessed", action="again")
        log.close()
        with AuditLog.open(path, read_only=True) as again:
            assert again.reader.count(Query(kind="accessed")) == 2
            assert again.reader.count(Query(kind="request_started")) == 1
        assert check(path).ok

    def test_a_torn_last_line_is_kept_and_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        spool = tmp_path / "a.db.spool"
        log = AuditLog.open(path, on_failure="spool", lock_timeout=0.02)
        with held(path):
            log.started(entry="generate")
        with spool.open("ab") as file:
            file.write(b'{"record": "{half')
        log.close()
        told = [
            getattr(entry.record, "cause", "")
            for entry in AuditLog.open(path, read_only=True).search(
                Query(kind="log_recovered")
            )
        ]
        assert sorted(told) == ["spool_drained", "torn_spool"]
        assert spool.with_name("a.db.spool.torn").read_bytes().startswith(b'{"rec')
        assert check(path).ok

    def test_a_changed_spool_is_set_aside(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        spool = tmp_path / "a.db.spool"
        with AuditLog.open(path, on_failure="spool", lock_timeout=0.02) as log:
            with held(path):
                log.started(entry="generate", tenant="ward")
            spool.write_text(spool.read_text().replace("ward", "yard"))
            ask(log)
            (told,) = log.search(Query(kind="log_recovered"))
            assert getattr(told.record, "cause", "") == "spool_damaged"
        (kept,) = tmp_path.glob("a.db.spool.bad_*")
        assert "yard" in kept.read_text()

    def test_a_spool_that_cannot_be_written_blocks(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        (tmp_path / "file").touch()
        gone = tmp_path / "file" / "spool"
        with (
            AuditLog.open(
                path, on_failure="spool", spool=gone, lock_timeout=0.02
            ) as log,
            held(path),
            pytest.raises(AuditWriteError, match="spool"),
        ):
            log.started(entry="generate")


class TestDegrade:
    def test_it_is_loud_and_the_ledger_says_how_many(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        with AuditLog.open(path, on_failure="degrade", lock_timeout=0.02) as log:
            with held(path), capture_logs() as logs:
                begun = log.started(entry="generate")
                assert begun.audit_id is not None
                log.finished(begun.audit_id, outcome="answered")
            assert begun.state == "unrecorded"
            assert [entry["log_level"] for entry in logs] == ["critical"] * 2
            ask(log)
            (told,) = log.search(Query(kind="audit_degraded"))
            assert getattr(told.record, "unrecorded", 0) == 2
            assert getattr(told.record, "cause", "") == "lock_timeout"
        assert check(path).unrecorded == 2

    def test_a_changed_ledger_is_never_passed_over(self, tmp_path: Path) -> None:
        from sarguard.errors import AuditIntegrityError

        path = tmp_path / "a.db"
        log = AuditLog.open(path, on_failure="degrade")
        path.unlink()
        with pytest.raises(AuditIntegrityError):
            log.started(entry="generate")
        with pytest.raises(AuditIntegrityError):
            log.close()


class TestClock:
    def test_a_clock_that_goes_back_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.db"
        with AuditLog.open(path) as log:
            ask(log)
            now = appender.now_us()
            monkeypatch.setattr(appender, "now_us", lambda: now - 3_600_000_000)
            ask(log)
            monkeypatch.undo()
            ask(log)
            (told,) = log.search(Query(kind="log_recovered"))
            assert getattr(told.record, "cause", "") == "clock_moved_back"
            assert getattr(told.record, "count", 0) > 3_590_000_000
        report = check(path)
        assert report.ok, str(report)


class TestMirror:
    def test_a_mirror_out_of_reach_is_told_and_caught_up(self, tmp_path: Path) -> None:
        got: list[str] = []
        broken = [False]

        def mirror(note: str) -> None:
            if broken[0]:
                raise ConnectionError("no route")
            got.append(note)

        with AuditLog.open(tmp_path / "a.db", mirror=mirror) as log:
            broken[0] = True
            ask(log)
            with capture_logs():
                log.checkpoint()
            (told,) = log.search(Query(kind="mirror_failed"))
            assert told.record.fault.type == "ConnectionError"
            broken[0] = False
            log.checkpoint()
            sizes = [int(note.split("\n")[1]) for note in got]
            assert sizes == [1, 3, 4]
        assert check(log.path).ok

    def test_a_file_mirror_holds_every_checkpoint(self, tmp_path: Path) -> None:
        path = fill(tmp_path / "a.db", pace=Pace(checkpoint_records=5))
        copies = FileMirror(tmp_path / "mirror.txt").checkpoints()
        with AuditLog.open(path, read_only=True) as log:
            assert copies == log.reader.checkpoints()
        assert len(copies) > 4


class TestBadFiles:
    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        path.write_bytes(b"RIFF....WAVEfmt ")
        for read_only in (True, False):
            with pytest.raises(AuditFormatError, match="not a ledger"):
                AuditLog.open(path, read_only=read_only)
        assert path.read_bytes() == b"RIFF....WAVEfmt "

    def test_a_database_of_another_program(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        SigningKey.generate().save(tmp_path / "a.db.key")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE notes (text)")
        before = path.read_bytes()
        for read_only in (True, False):
            with pytest.raises(AuditFormatError, match="another program"):
                AuditLog.open(path, read_only=read_only)
        assert path.read_bytes() == before

    def test_a_ledger_of_a_newer_version(self, tmp_path: Path) -> None:
        path = fill(tmp_path / "a.db")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        for read_only in (True, False):
            with pytest.raises(AuditFormatError, match="update sarguard"):
                AuditLog.open(path, read_only=read_only)

    @pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    def test_a_truncated_file(self, tmp_path: Path, share: float) -> None:
        path = fill(tmp_path / "a.db")
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        try:
            report = verify(path)
        except AuditFormatError:
            return
        assert not report.ok

    def test_no_file_to_read(self, tmp_path: Path) -> None:
        with pytest.raises(AuditNotFoundError, match="no ledger"):
            AuditLog.open(tmp_path / "a.db", read_only=True)
        with pytest.raises(AuditNotFoundError):
            verify(tmp_path / "a.db")

    def test_a_ledger_without_its_key(self, tmp_path: Path) -> None:
        path = fill(tmp_path / "a.db")
        os.unlink(f"{path}.key")
        with pytest.raises(AuditNotFoundError, match="key file"):
            AuditLog.open(path)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        key = SigningKey.generate()
        with pytest.raises(AuditWriteError, match="no folder"):
            AuditLog.open(tmp_path / "none" / "a.db", key=key)

    def test_an_unknown_way_to_fail(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="on_failure"):
            AuditLog.open(tmp_path / "a.db", on_failure="ignore")  # type: ignore[arg-type]

    def test_a_read_only_copy_is_read(self, tmp_path: Path) -> None:
        path = fill(tmp_path / "a.db")
        folder = tmp_path / "evidence"
        folder.mkdir()
        copy = folder / "a.db"
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o444)
        folder.chmod(0o555)
        try:
            assert verify(copy).ok
        finally:
            folder.chmod(0o755)


class TestBadValues:
    def test_invalid_unicode_is_an_error_and_leaves_no_trace(
        self, tmp_path: Path
    ) -> None:
        with AuditLog.open(tmp_path / "a.db") as log:
            with pytest.raises(AuditRecordError, match="tenant"):
                log.started(entry="generate", tenant="ward \udcff")
            with pytest.raises(AuditRecordError, match="request_id"):
                log.started(entry="generate", request_id="x" * 10_000)
            with pytest.raises(AuditRecordError, match="session"):
                log.started(entry="generate", session="not an hmac")
            assert log.reader.size() == 1

    def test_free_text_is_cut_and_cleaned(self, tmp_path: Path) -> None:
        with AuditLog.open(tmp_path / "a.db") as log:
            log.event(
                "reviewed", request="r", about_seq=1, label="ok", reviewer="a",
                note="\ud800 " + "long " * 100_000,
            )  # fmt: skip
        (entry,) = AuditLog.open(log.path, read_only=True).search(
            Query(kind="reviewed")
        )
        assert len(entry.record.note) == 2000
        assert check(log.path).ok

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_number_that_is_none(self, value: float) -> None:
        with pytest.raises(ValueError, match="finite"):
            Score(name="harm", value=value)

    def test_a_request_ends_once(self, tmp_path: Path) -> None:
        with AuditLog.open(tmp_path / "a.db") as log:
            name = ask(log)
            with pytest.raises(AuditRecordError, match="already"):
                log.finished(name, outcome="refused")
            with pytest.raises(AuditRecordError, match="no request"):
                log.finished("req_" + "0" * 26, outcome="refused")
            with pytest.raises(AuditRecordError, match="outcome"):
                log.finished(
                    str(log.started(entry="generate").audit_id), outcome="fine"
                )


def test_causes_are_told_from_words_too() -> None:
    assert cause_of(sqlite3.OperationalError("database is locked")) == "lock_timeout"
    assert cause_of(sqlite3.OperationalError("disk I/O error")) == "io_error"
    assert cause_of(OSError(28, "No space left on device")) == "disk_full"
    assert cause_of(ValueError()) == "io_error"
    assert int.from_bytes(b"SARG", "big") == APPLICATION_ID


def test_a_record_is_signed_even_if_none_follows(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    signed = threading.Event()
    sizes: list[int] = []

    def mirror(note: str) -> None:
        sizes.append(int(note.split("\n")[1]))
        if sizes[-1] == 2:
            signed.set()

    log = AuditLog.open(path, mirror=mirror, pace=Pace(checkpoint_seconds=0.05))
    log.event("accessed", action="search")
    assert signed.wait(30)
    log.close()
    assert not codes(check(path))
