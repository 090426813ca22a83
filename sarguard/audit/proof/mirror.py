"""Copy checkpoints to a second place, out of reach of who can change the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from sarguard.audit.proof.signed_notes import Checkpoint, parse_many

_log = structlog.get_logger(__name__)

Mirror = Callable[[str], None]
"""Take the text of a signed checkpoint; raise if it could not be kept."""


class FileMirror:
    """Append checkpoints to a text file, each made durable before it counts."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __call__(self, note: str) -> None:
        """Append one checkpoint."""
        # The line before keeps it apart from a copy that a crash tore.
        text = "\n" + note
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        handle = os.open(self.path, flags, 0o644)
        try:
            os.write(handle, text.encode("utf-8"))
            os.fsync(handle)
        finally:
            os.close(handle)

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints that the file holds."""
        if not self.path.exists():
            return []
        return parse_many(self.path.read_text(encoding="utf-8"))


class Publisher:
    """Copy each checkpoint to its other places; say so where one is out of reach.

    A place that failed is given what it missed together with the next checkpoint.
    """

    def __init__(
        self, mirror: Mirror | str | Path | Iterable[Mirror | str | Path]
    ) -> None:
        if isinstance(mirror, (str, Path)) or callable(mirror):
            mirror = [mirror]
        self._mirrors = [
            FileMirror(place) if isinstance(place, (str, Path)) else place
            for place in mirror
        ]
        self._missed: dict[int, list[str]] = {}
        self.failed: Callable[[Checkpoint, Exception], None] = _ignore

    @property
    def files(self) -> list[FileMirror]:
        """Return the places that can be read back."""
        return [place for place in self._mirrors if isinstance(place, FileMirror)]

    def publish(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint to every place; a failure is passed to `failed`."""
        for number, mirror in enumerate(self._mirrors):
            waiting = [*self._missed.pop(number, []), str(checkpoint)]
            try:
                while waiting:
                    mirror(waiting[0])
                    waiting.pop(0)
            # A caller's own function may raise anything; the ledger must go on.
            except Exception as error:
                first = len(waiting) == 1
                self._missed[number] = waiting[-MOST_MISSED:]
                _log.error("audit_mirror_failed", size=checkpoint.size, why=str(error))
                if first:
                    self.failed(checkpoint, error)


MOST_MISSED = 1000
"""The most checkpoints kept for a place that is out of reach."""


def _ignore(checkpoint: Checkpoint, error: Exception) -> None:
    """Do nothing more than what was logged."""
