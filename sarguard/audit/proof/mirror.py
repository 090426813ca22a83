"""Copies of checkpoints, out of reach of those who can change the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from sarguard.audit.proof.signed_notes import Checkpoint, parse_many
from sarguard.logs import get_logger

MAX_MISSED = 1000
"""Checkpoints kept for a mirror that is out of reach."""

_log = get_logger(__name__)

Mirror = Callable[[str], None]
"""A function that keeps the text of a signed checkpoint, or raises."""


class FileMirror:
    """Text file that checkpoints are appended to; each is flushed to disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def __call__(self, note: str) -> None:
        """Append one checkpoint."""
        # An empty line keeps it apart from a copy that a crash cut off.
        text = "\n" + note
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # Anybody may read it: a checkpoint holds no secret, and others are to keep it.
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
    """Publisher of checkpoints to mirrors; it reports a mirror that fails.

    A mirror that failed is given what it missed together with the next checkpoint.
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
        self.failed: Callable[[Checkpoint, Exception], None] = lambda *_: None
        """Called when a mirror begins to fail, beside what is logged."""

    @property
    def files(self) -> list[FileMirror]:
        """Return the mirrors that can be read back."""
        return [each for each in self._mirrors if isinstance(each, FileMirror)]

    def publish(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint to every mirror; a failure is passed to `failed`."""
        for number, mirror in enumerate(self._mirrors):
            waiting = [*self._missed.pop(number, []), str(checkpoint)]
            try:
                while waiting:
                    mirror(waiting[0])
                    waiting.pop(0)
            # A caller's own function may raise anything; the ledger must go on.
            except Exception as error:
                # Reported once per outage, not once per checkpoint.
                first = len(waiting) == 1
                # The newest ones: a later checkpoint covers the records of the earlier
                # too.
                self._missed[number] = waiting[-MAX_MISSED:]
                _log.error("audit_mirror_failed", size=checkpoint.size, why=str(error))
                if first:
                    self.failed(checkpoint, error)
