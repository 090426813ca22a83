"""A chart of what is withheld under each condition: a panel an arm, a line a name."""

from __future__ import annotations

from collections.abc import Sequence

from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.report import svg
from sarguard.evaluation.report.svg import Axes
from sarguard.evaluation.stats.conditions import Condition
from sarguard.evaluation.stats.rates import Rate

HARMFUL_COLOUR = "#d55e00"
HARMLESS_COLOUR = "#009e73"
KEY = {
    "harmful requests withheld (more is better)": HARMFUL_COLOUR,
    "harmless requests withheld (less is better)": HARMLESS_COLOUR,
}
_PANEL = 120
_GAP = 18
_ROW = 20
_TOP = 26
_BOTTOM = 30
_CHARACTER = 6.4
_EDGE = 12


def condition_chart(conditions: Sequence[Condition], *, alone: bool = False) -> str:
    """Draw one table's conditions.

    Args:
        conditions: Of one table, every arm's.
        alone: Whether the chart has to do without a page: it then holds its legend.
    """
    names = list(dict.fromkeys(c.name for c in conditions))
    arms = list(dict.fromkeys(c.arm for c in conditions))
    left = round(_EDGE + _CHARACTER * max(map(len, names)))
    bottom = _BOTTOM + (36 if alone else 0)
    height = _TOP + _ROW * len(names) + bottom
    width = left + len(arms) * (_PANEL + _GAP)
    axes = Axes(
        x_range=(0, 1), y_range=(0, 1), width=max(width, 320), height=height, left=left
    )
    whole = [svg.bar(0, 0, axes.width, height, "#ffffff")] if alone else []
    parts = [
        svg.text(left - 8, _middle(row) + 4, name, anchor="end", fill=svg.INK)
        for row, name in enumerate(names)
    ]
    for place, arm in enumerate(arms):
        found = {c.name: c for c in conditions if c.arm == arm}
        parts += _panel(left + place * (_PANEL + _GAP), arm, names, found)
    if alone:
        parts += _key(height)
    return axes.draw([*whole, *parts], label="Requests withheld, by condition and arm")


def _panel(
    left: float, arm: Arm, names: Sequence[str], found: dict[str, Condition]
) -> list[str]:
    low = _TOP + _ROW * len(names)
    parts = [svg.text(left, _TOP - 10, str(arm), fill=svg.INK)]
    for share in (0.0, 0.5, 1.0):
        x = left + _PANEL * share
        parts.append(svg.line(x, _TOP, x, low, svg.GRID))
        parts.append(svg.text(x, low + 14, f"{share:.0%}", anchor="middle"))
    plain = found.get(names[0])
    if plain is not None and plain.harmful_withheld is not None:
        # What the others are compared with, all the way down.
        x = left + _PANEL * plain.harmful_withheld.value
        dashed = 'stroke-dasharray="3 3" opacity="0.6"'
        parts.append(svg.line(x, _TOP, x, low, HARMFUL_COLOUR, more=dashed))
    for row, name in enumerate(names):
        if (condition := found.get(name)) is not None:
            parts += _line(left, row, condition)
    return parts


def _line(left: float, row: int, condition: Condition) -> list[str]:
    middle = _middle(row)
    parts = []
    for shift, size, colour, rate in (
        (-6.0, 7.0, HARMFUL_COLOUR, condition.harmful_withheld),
        (2.0, 4.0, HARMLESS_COLOUR, condition.harmless_withheld),
    ):
        if rate is None:
            continue
        kind = "harmful" if colour == HARMFUL_COLOUR else "harmless"
        hint = f"{condition.arm}, {condition.name}: {_said(rate)} of {kind} withheld"
        # A sliver where nothing is withheld: it was measured.
        width = max(_PANEL * rate.value, 1.0)
        parts.append(svg.bar(left, middle + shift, width, size, colour, title=hint))
    return parts


def _middle(row: int) -> float:
    return _TOP + _ROW * (row + 0.5)


def _said(rate: Rate) -> str:
    return f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}]"


def _key(height: float) -> list[str]:
    parts = []
    for place, (name, colour) in enumerate(KEY.items()):
        y = height - 24 + 16 * place
        parts.append(svg.bar(_EDGE, y - 8, 10, 8, colour))
        parts.append(svg.text(_EDGE + 16, y, name, fill=svg.INK))
    return parts
