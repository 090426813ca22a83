from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sarguard.errors
from sarguard.errors import ReferenceUnavailableError
from sarguard.reference import cache
from sarguard.reference.cache import MANIFEST, cache_root, find_fault, publish
from sarguard.reference.progress import Reporter

QUIET = Reporter(show=False)
PACKAGE = Path(sarguard.errors.__file__).parents[1]


def fill(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(9_000_000))
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("{}")


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    entry = tmp_path / "entry"
    publish(entry, fill)
    return entry


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_published_entry_is_whole_and_leaves_nothing_else(entry: Path) -> None:
    assert find_fault(entry) is None
    assert find_fault(entry, deep=True) is None
    assert os.listdir(entry.parent) == ["entry"]
    assert {path.name for path in entry.iterdir()} == {"weights.bin", "sub", MANIFEST}


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda e: (e / "weights.bin").unlink(), "weights.bin is missing"),
        (lambda e: os.truncate(e / "weights.bin", 8_999_999), "has 8999999 bytes"),
        (lambda e: flip(e / "weights.bin"), "weights.bin does not have its SHA-256"),
        (lambda e: flip(e / "sub" / "config.json"), "config.json does not have its"),
        (lambda e: (e / MANIFEST).unlink(), "COMPLETE.json is missing"),
        (lambda e: (e / MANIFEST).write_text(""), "COMPLETE.json cannot be used"),
        (lambda e: (e / MANIFEST).write_text("[]"), "COMPLETE.json cannot be used"),
        (lambda e: (e / MANIFEST).write_text("{}"), "COMPLETE.json cannot be used"),
        (lambda e: (e / MANIFEST).write_bytes(b"\xff"), "COMPLETE.json cannot be used"),
        (
            lambda e: (e / MANIFEST).write_text('{"files": {"weights.bin": {}}}'),
            "COMPLETE.json cannot be used",
        ),
    ],
)
def test_damage_is_named(
    entry: Path, damage: Callable[[Path], None], fault: str
) -> None:
    damage(entry)
    assert fault in (find_fault(entry) or "nothing")


def test_a_large_file_with_its_recorded_time_is_hashed_only_on_request(
    entry: Path,
) -> None:
    weights = entry / "weights.bin"
    time = weights.stat().st_mtime_ns
    flip(weights)
    os.utime(weights, ns=(time, time))
    assert find_fault(entry) is None
    assert "weights.bin" in (find_fault(entry, deep=True) or "")


def test_a_copied_entry_is_still_whole(entry: Path) -> None:
    os.utime(entry / "weights.bin", (1, 1))
    assert find_fault(entry) is None


def test_publishing_replaces_a_damaged_entry(entry: Path) -> None:
    (entry / "weights.bin").unlink()
    publish(entry, fill)
    assert find_fault(entry) is None
    assert os.listdir(entry.parent) == ["entry"]


def test_all_files_take_the_rights_of_their_folder(tmp_path: Path) -> None:
    def guarded(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"x")
        (folder / "weights.bin").chmod(0o600)

    publish(tmp_path / "entry", guarded)
    (tmp_path / "plain").mkdir()
    rights = (tmp_path / "plain").stat().st_mode & 0o666
    assert (tmp_path / "entry" / "weights.bin").stat().st_mode & 0o777 == rights


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ReferenceUnavailableError),
        (PermissionError(errno.EACCES, "denied"), ReferenceUnavailableError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, raised: BaseException, seen: type[BaseException]
) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise raised

    with pytest.raises(seen):
        publish(tmp_path / "entry", fail)
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_entry_that_was_there(entry: Path) -> None:
    def fail(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(entry, fail)
    assert find_fault(entry) is None


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path) -> None:
    with pytest.raises(ReferenceUnavailableError, match=r"Free some.*SARGUARD_CACHE"):
        cache.require_space(tmp_path, 1 << 60)


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ReferenceUnavailableError, match="name another directory"),
        cache.locked(tmp_path / "file" / "cache", QUIET),
    ):
        pytest.fail("the lock was given")


def test_a_lock_and_litter_of_a_dead_process_are_no_obstacle(tmp_path: Path) -> None:
    script = (
        "import os, sys, tempfile; from pathlib import Path\n"
        "from sarguard.reference import cache\n"
        "from sarguard.reference.progress import Reporter\n"
        "root = Path(sys.argv[1])\n"
        "lock = cache.locked(root, Reporter(show=False))\n"
        "with lock, cache.scratch_directory(root) as it:\n"
        "    (it / 'half').write_text('x')\n"
        "    os._exit(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, env=environment, check=True)
    assert len(list(tmp_path.glob(".partial-*/half"))) == 1
    with cache.locked(tmp_path, QUIET):
        assert not list(tmp_path.glob(".partial-*"))


def test_the_root_is_the_argument_then_the_environment_then_the_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == Path("/home/someone/.cache/sarguard")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == Path("/home/someone/.cache/sarguard")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/sarguard")
    monkeypatch.setenv("SARGUARD_CACHE", "~/mine")
    assert cache_root() == Path("/home/someone/mine")
    assert cache_root(tmp_path) == tmp_path
