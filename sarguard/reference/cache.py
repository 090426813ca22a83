"""Directories on disk that are complete or absent.

An entry is filled in a hidden directory, gets its manifest last, and is put in place by
one rename, under a lock that the system releases if the process dies.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sarguard.errors import ReferenceUnavailableError
from sarguard.reference.progress import Reporter

MANIFEST = "COMPLETE.json"

_PARTIAL = ".partial-"
_ALWAYS_HASHED_BELOW = 8 << 20
_CHUNK = 1 << 20


def cache_root(cache_dir: Path | None = None) -> Path:
    """Return the cache directory: the argument, SARGUARD_CACHE, or the platform's."""
    if cache_dir is not None:
        return Path(cache_dir).absolute()
    named = os.environ.get("SARGUARD_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return _platform_cache() / "sarguard"


def _platform_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has a relative path ignored.
    return xdg if xdg.is_absolute() else Path.home() / ".cache"


@contextmanager
def locked(root: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the cache's lock, shared by processes, and remove what a dead one left.

    Raises:
        ReferenceUnavailableError: the cache cannot be written.
    """
    from filelock import FileLock, Timeout

    with explain_write_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock")
        try:
            # Tried once first, so that waiting can be announced.
            lock.acquire(timeout=0)
        except Timeout:
            reporter.note("Another process is preparing the reference model; waiting.")
            lock.acquire()
    try:
        # Whoever fills such a directory holds the lock, so these are a dead process's.
        for leftover in root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def explain_write_errors(root: Path) -> Iterator[None]:
    """Turn a failure to write into an error that says what to do.

    Raises:
        ReferenceUnavailableError: the disk is full or the cache cannot be written.
    """
    from safetensors import SafetensorError

    from sarguard.errors import ReferenceModelError

    try:
        yield
    except ReferenceModelError:
        raise
    except (OSError, SafetensorError) as error:
        raise ReferenceUnavailableError(
            f"The cache {root} cannot be written: {error}. Free some space or grant "
            "write access, or name another directory in SARGUARD_CACHE."
        ) from error


@contextmanager
def scratch_directory(root: Path) -> Iterator[Path]:
    """Yield a hidden directory, removed afterwards in any case."""
    folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_space(root: Path, needed: int) -> None:
    """Check that the disk has room.

    Raises:
        ReferenceUnavailableError: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(root).free
    if free < needed:
        raise ReferenceUnavailableError(
            f"The cache {root} needs {needed / 1e6:.0f} MB and its disk has "
            f"{free / 1e6:.0f} MB free. Free some space, or name a directory on "
            "another disk in SARGUARD_CACHE."
        )


def publish(entry: Path, fill: Callable[[Path], None]) -> None:
    """Fill an entry in a hidden directory, then replace any older one.

    Args:
        entry: directory to appear, directly under the locked cache root.
        fill: writes the files into the directory it is given.
    """
    with explain_write_errors(entry.parent), scratch_directory(entry.parent) as folder:
        fresh, stale = folder / "fresh", folder / "stale"
        fresh.mkdir()
        fill(fresh)
        _copy_folder_mode(fresh)
        _write_manifest(fresh, {name: _record(fresh / name) for name in _files(fresh)})
        # A directory with files cannot be replaced by one rename. A crash between the
        # two leaves no entry, which the next call makes again.
        if entry.exists():
            entry.rename(stale)
        fresh.rename(entry)


def find_fault(entry: Path, *, deep: bool = False) -> str | None:
    """Return what is wrong with a published entry, or None if it is intact.

    Sizes are always compared. A large file is hashed only where its modification
    time is not the recorded one; small files are hashed each time.

    Args:
        entry: directory made by `publish`.
        deep: hash every file, whatever its modification time.
    """
    try:
        records = json.loads((entry / MANIFEST).read_text("utf-8"))["files"]
        faults = [_file_fault(entry / name, records[name], deep) for name in records]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"{MANIFEST} cannot be used ({error})"
    return next((fault for fault in faults if fault), None)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _file_fault(path: Path, record: Mapping[str, Any], deep: bool) -> str | None:
    try:
        found = path.stat()
    except OSError:
        return f"{path.name} is missing"
    if found.st_size != record["size"]:
        return f"{path.name} has {found.st_size} bytes, expected {record['size']}"
    touched = found.st_mtime_ns != record["mtime_ns"]
    hashed = deep or touched or found.st_size < _ALWAYS_HASHED_BELOW
    if hashed and file_sha256(path) != record["sha256"]:
        return f"{path.name} does not have its SHA-256"
    return None


def _copy_folder_mode(folder: Path) -> None:
    """Give files the mode of their folder: safetensors makes its own private."""
    mode = folder.stat().st_mode & 0o666
    for name in _files(folder):
        (folder / name).chmod(mode)


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


def _record(path: Path) -> dict[str, Any]:
    # Synced before the manifest: a power cut must not leave one for lost data.
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    found = path.stat()
    return {
        "size": found.st_size,
        "sha256": file_sha256(path),
        "mtime_ns": found.st_mtime_ns,
    }


def _write_manifest(folder: Path, records: Mapping[str, Any]) -> None:
    text = json.dumps({"files": records}, indent=1, sort_keys=True)
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
