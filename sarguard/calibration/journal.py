"""What a calibration has read so far, kept on disk until its bundle is there.

Reading takes most of the time. A calibration that was stopped finds what it had read,
if it is the same one: of the same weights, clips, texts and settings, with the same
versions of what computes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarguard.calibration.recipe import Clip
from sarguard.errors import ConfigurationError
from sarguard.types import Turn

_IDENTITY = "calibration.json"
_DIGITS = 32


class Journal:
    """Keeps what was read; without a directory it keeps nothing."""

    def __init__(
        self, directory: Path | None = None, identity: Mapping[str, str] | None = None
    ) -> None:
        """Open a directory, or begin it anew where it is another calibration's.

        Args:
            directory: Where to keep what is read.
            identity: What the calibration is of.
        """
        self._directory = directory
        if directory is None:
            return
        found = directory / _IDENTITY
        written = json.dumps(dict(identity or {}), indent=2, sort_keys=True)
        if not found.is_file() or found.read_text(encoding="utf-8") != written:
            discard(directory)
            directory.mkdir(parents=True)
            found.write_text(written, encoding="utf-8")

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
        partial = path.with_suffix(".partial")
        save_file(found, partial)
        # Whole or not at all, whenever the process is stopped.
        partial.replace(path)
        return found


def discard(directory: Path) -> None:
    """Remove what a journal kept, and nothing else.

    Raises:
        ConfigurationError: There is something of that name that is no journal.
    """
    if not directory.exists():
        return
    if not (directory / _IDENTITY).is_file():
        raise ConfigurationError(
            f"{directory} exists, and calibration did not make it: move it away, or "
            "choose another directory for the bundle"
        )
    shutil.rmtree(directory)


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
