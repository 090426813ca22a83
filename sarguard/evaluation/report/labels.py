"""Names of points in a chart: near their own, over no other point and no other name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sarguard.evaluation.report import svg
from sarguard.evaluation.report.svg import Axes

_CHARACTER = 6.6
_HEIGHT = 13.0
_GAP = 7.0
_OFF = 7.0
_STEP = 7.0
_STEPS = 24
_LED = 2
"""From so many steps on a line leads from a point to its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point on the canvas and what it is called."""

    x: float
    y: float
    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: _Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def name_marks(axes: Axes, marks: Sequence[Mark]) -> list[str]:
    """Return the marks' names; those at one point share a label."""
    canvas = _Box(axes.left, axes.top, axes.width, axes.height - axes.bottom)
    taken = [_Box(m.x - 5, m.y - 5, m.x + 5, m.y + 5) for m in marks]
    parts = []
    for mark in _together(marks):
        width = _CHARACTER * len(mark.name)
        places = list(_places(mark, width))
        step, box = next(
            (
                (step, box)
                for step, box in places
                if box.within(canvas) and not any(map(box.meets, taken))
            ),
            places[0],
        )
        taken.append(box)
        if step >= _LED:
            edge = box.left if box.left > mark.x else box.right
            middle = (box.top + box.bottom) / 2
            faint = 'opacity="0.6"'
            parts.append(
                svg.line(mark.x, mark.y, edge, middle, mark.colour, more=faint)
            )
        parts.append(svg.text(box.left, box.bottom - 3, mark.name, fill=mark.colour))
    return parts


def _together(marks: Sequence[Mark]) -> Iterator[Mark]:
    """Yield one mark for those that stand at the same point in the same colour."""

    def where(mark: Mark) -> tuple[float, float, str]:
        return mark.x, mark.y, mark.colour

    for (x, y, colour), alike in itertools.groupby(sorted(marks, key=where), where):
        names = ", ".join(mark.name for mark in alike)
        yield Mark(x=x, y=y, name=names, colour=colour)


def _places(mark: Mark, width: float) -> Iterator[tuple[int, _Box]]:
    """Yield where a name may stand, the nearest first, with steps up or down."""
    for step in range(_STEPS):
        # Beside the point, but off the line of its own interval.
        off = _OFF + step * _STEP
        for top in (mark.y - off - _HEIGHT / 2, mark.y + off - _HEIGHT / 2):
            for left in (mark.x + _GAP, mark.x - _GAP - width):
                yield step, _Box(left, top, left + width, top + _HEIGHT)
