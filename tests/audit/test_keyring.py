from __future__ import annotations

import multiprocessing
import sqlite3
import stat
from pathlib import Path

import pytest

from sarguard.audit.privacy.keyring import Keyring
from sarguard.errors import AuditFormatError, AuditNotFoundError, AuditWriteError


def test_a_tenant_keeps_its_secret(tmp_path: Path) -> None:
    path = tmp_path / "audit.db.keys"
    first = Keyring(path).pseudonyms("a")
    again = Keyring(path).pseudonyms("a")
    other = Keyring(path).pseudonyms("b")
    assert first == again
    assert first.secret != other.secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rotated_secret_still_serves_to_look_up(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "k")
    old = keys.pseudonyms("a")
    new = keys.rotate("a")
    assert keys.pseudonyms("a") == new
    assert [each for _, each in keys.all_pseudonyms("a")] == [old, new]


def test_another_process_s_rotation_is_noticed(tmp_path: Path) -> None:
    here, there = Keyring(tmp_path / "k"), Keyring(tmp_path / "k")
    here.pseudonyms("a")
    new = there.rotate("a")
    assert here.pseudonyms("a") == new


def test_a_destroyed_secret_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "k")
    kept = keys.pseudonyms("kept")
    gone = keys.content_secret("a", "session")
    assert gone.value in (tmp_path / "k").read_bytes()
    keys.destroy([gone.key_id])
    found = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert gone.value not in found
    assert kept.secret in found
    assert keys.was_destroyed(gone.key_id)
    with pytest.raises(AuditNotFoundError, match="was destroyed"):
        keys.get(gone.key_id)
    assert keys.content_secret("a", "session").value != gone.value


def _first_use(path: str, queue: multiprocessing.Queue[str]) -> None:
    queue.put(Keyring(path).pseudonyms("a").key_id)


def test_processes_agree_on_a_new_secret(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[str] = context.Queue()
    path = str(tmp_path / "k")
    workers = [context.Process(target=_first_use, args=(path, queue)) for _ in range(6)]
    for worker in workers:
        worker.start()
    found = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(found) == 1


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not keys, and long enough to be looked at by SQLite" * 20)
    before = text.read_bytes()
    with pytest.raises(AuditFormatError, match="does not hold the ledger's keys"):
        Keyring(text).pseudonyms("a")
    assert text.read_bytes() == before
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(AuditFormatError, match="another kind"):
        Keyring(other).pseudonyms("a")


def test_a_missing_folder_is_a_write_error(tmp_path: Path) -> None:
    with pytest.raises(AuditWriteError):
        Keyring(tmp_path / "no" / "k").pseudonyms("a")
