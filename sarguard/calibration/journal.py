"""What a calibration has read so far, kept on disk until its bundle is there.

Reading takes most of the time. A calibration that was stopped finds what it had read,
if it is the same one: of the same weights, clips, texts and settings, with the same
versions of what computes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarguard.calibration.recipe import Clip
from sarguard.errors import ConfigurationError
from sarguard.types import Turn

_IDENTITY = "calibration.json"
_LOCK = ".lock"
_DIGITS = 32


class Journal:
    """Keeps what was read; without a directory it keeps nothing.

    A directory is one calibration's at a time: it is locked until `close`.
    """

    def __init__(
        self, directory: Path | None = None, identity: Mapping[str, str] | None = None
    ) -> None:
        """Open a directory, or begin it anew where it is another calibration's.

        Args:
            directory: Where to keep what is read.
            identity: What the calibration is of.

        Raises:
            ConfigurationError: Another process uses the directory, or something of that
                name is no journal.
        """
        self._directory = directory
        self._lock: FileLock | None = None
        if directory is None:
            return
        _check_ours(directory)
        # Readable by its owner alone, as what was read comes of somebody's clips.
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = FileLock(directory / _LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigurationError(
                f"another calibration is writing to {directory}: wait for it, or "
                "choose another directory for the bundle"
            ) from error
        written = json.dumps(dict(identity or {}), indent=2, sort_keys=True)
        found = directory / _IDENTITY
        if not found.is_file() or found.read_text(encoding="utf-8") != written:
            # First what was read, so that none of it ever has this identity.
            _remove_readings(directory)
            _write(found, lambda path: path.write_text(written, encoding="utf-8"))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others use the directory; what was read stays."""
        if self._lock is not None:
            self._lock.release()

    def once(
        self, name: str, read: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return what was read under a name, or read it now and keep it.

        Args:
            name: Tells it from all else of the calibration.
            read: Returns tensors on the CPU, by names of their own.
        """
        if self._directory is None:
            return read()
        path = self._directory / f"{name}.safetensors"
        if path.is_file():
            try:
                return load_file(path)
            except SafetensorError:
                # The machine stopped before all of it was on the disk.
                path.unlink()
        # The format takes no two tensors of one memory: a reading may have two names.
        found = {
            key: value.clone(memory_format=torch.contiguous_format)
            for key, value in read().items()
        }
        _write(path, lambda partial: save_file(found, partial))
        return found


def discard(directory: Path) -> None:
    """Remove what a journal kept, and nothing else.

    Raises:
        ConfigurationError: There is something of that name that is no journal.
    """
    if not directory.exists():
        return
    _check_ours(directory)
    _remove_readings(directory)
    for name in (_IDENTITY, _LOCK):
        (directory / name).unlink(missing_ok=True)
    # Where somebody put something else into it, that stays.
    with suppress(OSError):
        directory.rmdir()


def _check_ours(directory: Path) -> None:
    if not directory.exists() or (directory / _IDENTITY).is_file():
        return
    # Stopped before it was named, or nothing at all.
    if directory.is_dir() and {path.name for path in directory.iterdir()} <= {_LOCK}:
        return
    raise ConfigurationError(
        f"{directory} exists, and calibration did not make it: move it away, or "
        "choose another directory for the bundle"
    )


def _remove_readings(directory: Path) -> None:
    for pattern in ("*.safetensors", "*.partial"):
        for path in directory.glob(pattern):
            path.unlink()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all, whenever process or machine stop."""
    partial = path.with_suffix(".partial")
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def name_of(part: str, *what: object) -> str:
    """Return a name for what is read: a part of calibration, and what of it.

    Args:
        part: A word.
        what: Texts, clips, turns, and sequences of them.
    """
    digest = hashlib.sha256()
    for one in what:
        _add(digest, one)
    return f"{part}-{digest.hexdigest()[:_DIGITS]}"


def _add(digest: hashlib._Hash, what: object) -> None:
    if isinstance(what, np.ndarray):
        clip: Clip = what
        digest.update(f"clip {clip.shape} ".encode())
        digest.update(np.ascontiguousarray(clip, dtype="<f4").data)
    elif isinstance(what, Turn):
        _add(digest, (what.role, what.text, what.audio))
    elif isinstance(what, Sequence) and not isinstance(what, str):
        digest.update(f"list {len(what)} ".encode())
        for one in what:
            _add(digest, one)
    else:
        text = str(what).encode("utf-8", "surrogatepass")
        digest.update(f"text {len(text)} ".encode())
        digest.update(text)
