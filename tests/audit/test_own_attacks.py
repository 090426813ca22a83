"""Attacks of our own invention, beside those that ledgers are known to fall to."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sarguard.audit import AuditLog, Query
from sarguard.audit.proof import standalone_verifier
from sarguard.audit.proof.verify import verify
from sarguard.cli.main import main
from sarguard.errors import AuditIntegrityError
from tests.audit.ledgers import ask, check, codes, copy_of, fill, opened, store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("whole") / "audit.db", requests=4)


@pytest.fixture
def ledger(whole: Path, tmp_path: Path) -> Path:
    return copy_of(whole, tmp_path)


def standalone(path: Path, *more: str) -> int:
    return standalone_verifier.main(["ledger", str(path), *more])


def test_a_ledger_that_tells_two_auditors_two_stories(
    ledger: Path, tmp_path: Path
) -> None:
    """Let it go on in two ways: each is valid, their checkpoints do not agree."""
    (tmp_path / "other").mkdir()
    other = copy_of(ledger, tmp_path / "other")
    for path, tenant in ((ledger, "ward"), (other, "clinic")):
        with AuditLog.open(path, mirror=path.with_name("mirror.txt")) as log:
            ask(log, tenant=tenant)
        assert check(path, anchored=True).ok
    shutil.copy(other.with_name("mirror.txt"), ledger.with_name("mirror.txt"))
    assert codes(check(ledger, anchored=True)) == {"checkpoint"}
    mirror = str(ledger.with_name("mirror.txt"))
    assert standalone(ledger, "--checkpoint", mirror) == 1


def test_a_ledger_that_its_own_key_holder_wrote_anew(
    ledger: Path, tmp_path: Path
) -> None:
    """Nothing inside it can show this: the report says so, a copy outside shows it."""
    (tmp_path / "anew").mkdir()
    anew = tmp_path / "anew" / "audit.db"
    shutil.copy(f"{ledger}.key", f"{anew}.key")
    fill(anew, requests=5)
    alone = check(anew)
    assert alone.ok
    assert any("holds the signing key did not rewrite" in x for x in alone.not_proven)
    shutil.copy(ledger.with_name("mirror.txt"), anew.with_name("mirror.txt"))
    assert "checkpoint" in codes(check(anew, anchored=True))


def test_an_old_copy_put_back(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    backup = copy_of(ledger, tmp_path / "backup")
    mirror = ledger.with_name("mirror.txt")
    with AuditLog.open(ledger, mirror=mirror) as log:
        ask(log)
    shutil.copy(backup, ledger)
    assert codes(check(ledger, anchored=True)) == {"truncated"}
    with pytest.raises(AuditIntegrityError, match="missing from the end"):
        AuditLog.open(ledger, mirror=mirror)


def test_a_request_given_a_second_end(ledger: Path) -> None:
    with AuditLog.open(ledger, read_only=True) as log:
        (end,) = log.search(Query(kind="request_finished"), limit=1)
        last = log.reader.get(log.reader.size())
    with opened(ledger) as connection:
        (index,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'by_request'"
        ).fetchone()
        connection.execute("DROP INDEX by_request")
        second = {**json.loads(end.data), "seq": last.seq + 1, "prev": last.leaf}
        store(connection, last.seq + 1, {**second, "outcome": "refused"})
        connection.execute(index.replace("UNIQUE ", ""))
    assert {"tables", "request"} <= codes(check(ledger))


def test_a_time_that_no_clock_shows(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute(
            "UPDATE records SET record = CAST(replace(CAST(record AS TEXT), "
            '\'"time":"20\', \'"time":"2026-02-31T00:00:00.000000Z","was":"20\') '
            "AS BLOB) WHERE seq = 5"
        )
        connection.execute(
            "UPDATE records SET record = CAST(json_remove(CAST(record AS TEXT), "
            "'$.was') AS BLOB) WHERE seq = 5"
        )
    report = check(ledger)
    assert {"unreadable", "chain"} <= codes(report)
    assert "record 5" in report.problems[0].text
    assert standalone(ledger) == 1


BYTES = {
    "invalid UTF-8": b'{"kind":"\xff\xfe"}',
    "nothing": b"",
    "a text where bytes belong": "{}",
    "a number where bytes belong": 7,
    "deep nesting": b"[" * 200_000,
    "a number without end": b'{"seq":' + b"9" * 6000 + b"}",
    "two megabytes": b'{"kind":"' + b"x" * 2_000_000 + b'"}',
    "a list": b"[]",
}


@pytest.mark.parametrize("what", BYTES)
def test_bytes_that_are_no_record(
    ledger: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither verifier falls over, nor does a reader; each names the record."""
    with opened(ledger) as connection:
        connection.execute(
            "UPDATE records SET record = ? WHERE seq = 5", (BYTES[what],)
        )
    report = check(ledger)
    assert {"unreadable", "chain"} <= codes(report)
    assert "record 5" in report.problems[0].text
    assert standalone(ledger) == 1
    assert main(["audit", "tail", "--json", "-l", str(ledger)]) == 2
    assert "record 5 cannot be read" in capsys.readouterr().err


def test_a_write_ahead_log_torn_by_a_crash(tmp_path: Path) -> None:
    """Cut it at every kind of place: what is left is a valid beginning."""
    path = tmp_path / "audit.db"
    with AuditLog.open(path) as log:
        for _ in range(6):
            ask(log)
        wal = Path(f"{path}-wal").read_bytes()
        kept = {name: Path(f"{path}{name}").read_bytes() for name in ("", ".key")}
        size = log.reader.size()
    found = []
    for share in (0.2, 0.5, 0.8, 0.999):
        place = tmp_path / str(share) / "audit.db"
        place.parent.mkdir()
        for name, data in kept.items():
            Path(f"{place}{name}").write_bytes(data)
        Path(f"{place}-wal").write_bytes(wal[: int(len(wal) * share)])
        with closing(sqlite3.connect(place)) as connection:
            (begun,) = connection.execute(
                "SELECT count(*) FROM sqlite_master"
            ).fetchone()
        if begun:
            found.append(verify(place).size)
            with AuditLog.open(place) as log:
                ask(log)
            report = check(place)
            assert report.ok, str(report)
    assert found
    assert found == sorted(found)
    assert found[-1] < size
