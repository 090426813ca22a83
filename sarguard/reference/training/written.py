"""The requests that the text model is aligned on, in writing.

`pairs.tsv` holds harmful requests and harmless ones of the same sentence, by topic;
`borderline.tsv` harmless requests that look harmful, by kind; `ordinary.tsv` harmless
ones of every kind. None is, or is nearly, a sentence of the clips that ship.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRequests:
    """Requests that training may use."""

    harmful: tuple[str, ...]
    twins: tuple[str, ...]
    """The harmless request of each harmful one, in the same order."""
    borderline: tuple[str, ...]
    ordinary: tuple[str, ...]

    @property
    def harmless(self) -> tuple[str, ...]:
        """Return all but the harmful ones."""
        return self.twins + self.borderline + self.ordinary


@cache
def load_written() -> WrittenRequests:
    """Return every request, in file order."""
    pairs = _columns("pairs.tsv")
    return WrittenRequests(
        harmful=tuple(harmful for _, harmful, _ in pairs),
        twins=tuple(twin for *_, twin in pairs),
        borderline=tuple(text for _, text in _columns("borderline.tsv")),
        ordinary=tuple(text for _, text in _columns("ordinary.tsv")),
    )


def _columns(name: str) -> list[tuple[str, ...]]:
    lines = (_FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines]
