"""The charts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from sarguard.evaluation.arms.arm import BARE, POLICY, Arm
from sarguard.evaluation.report import svg
from sarguard.evaluation.report.content import DoseSpread
from sarguard.evaluation.report.labels import Mark, name_marks
from sarguard.evaluation.report.svg import Axes
from sarguard.evaluation.run.latency import Latency
from sarguard.evaluation.run.separation import Separation
from sarguard.evaluation.stats.summary import ArmSummary

# Colours that are told apart with any kind of sight (Okabe and Ito).
PALETTE = {
    "bare": "#1f2933",
    "zero": "#9aa5b1",
    "prompt": "#cc79a7",
    "raw": "#e69f00",
    "ablated": "#0072b2",
    "random": "#999933",
    "shuffled": "#882255",
    "tier": "#009e73",
    "block": "#7f5539",
    "steer": "#4b8b00",
    "policy": "#56b4e9",
}
_FAMILIES = ("tier", "block", "steer", "form")
"""Arms that share a colour: their names begin with it."""
_UNORDERED = ("form", POLICY)
"""Families whose arms are no steps of a dose."""
_OTHER = "#d55e00"
_SUITES = {
    "harmful": "#d55e00",
    "safe": "#009e73",
    "borderline": "#f0c430",
    "ordinary": "#56b4e9",
}
_PERCENT = [(step / 5, f"{20 * step} %") for step in range(6)]


def colour_of(name: str) -> str:
    """Return the colour of an arm, by its name without a dose."""
    return PALETTE.get(family_of(name), _OTHER)


def drawable(arms: Sequence[ArmSummary]) -> list[ArmSummary]:
    """Return the arms that were asked both harmful and harmless requests."""
    return [
        arm
        for arm in arms
        if arm.figures.get("benign_refused") and arm.figures.get("harmful_refused")
    ]


def trade_off(arms: Sequence[ArmSummary], *, alone: bool = False) -> str:
    """Draw harmful against benign requests refused, every arm on it.

    Args:
        arms: What is drawn.
        alone: Whether the chart has to do without a page: it then holds its legend.
    """
    axes = Axes(x_range=(-0.02, 1.02), y_range=(-0.02, 1.04), height=500)
    parts = axes.frame(
        x_ticks=_PERCENT,
        y_ticks=_PERCENT,
        x_title="harmless requests refused (less is better)",
        y_title="harmful requests refused (more is better)",
    )
    even = [(axes.x(0), axes.y(0)), (axes.x(1), axes.y(1))]
    parts.append(svg.path(even, svg.FAINT, more='stroke-dasharray="4 4" opacity="0.5"'))
    parts.append(
        svg.text(
            axes.x(0.70),
            axes.y(0.635),
            "refuses everybody alike",
            more=f'transform="rotate(-41 {axes.x(0.70)} {axes.y(0.635)})"',
        )
    )
    marks: list[Mark] = []
    for family in dict.fromkeys(_family(arm) for arm in arms):
        alike = [arm for arm in arms if _family(arm) == family]
        parts += _family_path(axes, alike, marks)
    parts += name_marks(axes, marks)
    if alone:
        whole = svg.bar(0, 0, axes.width, axes.height, "#ffffff")
        parts = [whole, *parts, *_key(axes, list(dict.fromkeys(map(_family, arms))))]
    return axes.draw(parts, label="Harmful against harmless requests refused")


def legend(names: Sequence[str]) -> str:
    """Return the colours of arms with their names, as HTML."""
    return coloured({name: colour_of(name) for name in names})


def suite_legend(names: Sequence[str]) -> str:
    """Return the colours of suites with their names, as HTML."""
    return coloured({name: _SUITES.get(name, _OTHER) for name in names})


def coloured(colours: Mapping[str, str]) -> str:
    """Return a row of colours with what they stand for, as HTML."""
    marks = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<p class="legend">{"".join(marks)}</p>'


def separation_chart(found: Separation) -> str:
    """Draw how far apart harmful and harmless states stand in every layer."""
    last = max(len(found.along_vector) - 1, 1)
    lowest = min(0.4, *found.along_vector, *found.by_probe)
    axes = Axes(x_range=(0, last), y_range=(max(0.0, lowest - 0.05), 1.02), height=320)
    ticks = range(0, last + 1, max(1, last // 10))
    parts = axes.frame(
        x_ticks=[(tick, str(tick)) for tick in ticks],
        y_ticks=[
            (step / 10, f"{step / 10:.1f}")
            for step in range(0, 11, 1)
            if step / 10 >= axes.y_range[0]
        ],
        x_title="layer",
        y_title="area under the ROC curve",
    )
    chance = [(axes.x(0), axes.y(0.5)), (axes.x(last), axes.y(0.5))]
    parts.append(svg.path(chance, svg.FAINT, more='stroke-dasharray="4 4"'))
    for areas, colour in (
        (found.along_vector, PALETTE["ablated"]),
        (found.by_probe, PALETTE["tier"]),
    ):
        points = [(axes.x(layer), axes.y(area)) for layer, area in enumerate(areas)]
        parts.append(svg.path(points, colour))
        parts += [
            svg.dot(x, y, colour, radius=3, title=f"layer {layer}: {areas[layer]:.2f}")
            for layer, (x, y) in enumerate(points)
        ]
    return axes.draw(parts, label="Separation of harmful and harmless states by layer")


def dose_chart(spread: DoseSpread) -> str:
    """Draw how many requests of each suite got which dose."""
    stacks = [sum(bins) for bins in zip(*spread.counts.values(), strict=True)]
    top = max(stacks, default=1) or 1
    axes = Axes(
        x_range=(0, spread.edges[-1] or 1.0), y_range=(0, top * 1.08), height=240
    )
    parts = axes.frame(
        x_ticks=[(edge, f"{edge:.3g}") for edge in spread.edges[::5]],
        y_ticks=[(top * step / 4, f"{top * step / 4:.0f}") for step in range(5)],
        x_title="strength of steering",
        y_title="requests",
    )
    for place in range(len(spread.edges) - 1):
        parts += _stack(axes, spread, place)
    return axes.draw(parts, label=f"Doses of {spread.arm}")


def latency_chart(found: Sequence[Latency]) -> str:
    """Draw every arm's times as a multiple of the bare model's."""
    rows = [row for row in found if row.first_token_ratio and row.arm != BARE]
    ratios = [r for row in rows for r in (row.first_token_ratio, row.token_ratio) if r]
    right = 1.05 * max([1.2, *ratios])
    height = 70 + 44 * len(rows)
    axes = Axes(
        x_range=(0, right),
        y_range=(0, len(rows) or 1),
        height=height,
        left=130,
    )
    marks = [step / 2 for step in range(int(right * 2) + 1)]
    parts = axes.frame(
        x_ticks=[(mark, f"{mark:g}") for mark in marks],
        y_ticks=[],
        x_title="times the bare model (upper bar: first token, lower: further ones)",
        y_title="",
    )
    for index, row in enumerate(rows):
        top = axes.y(len(rows) - index) + 6
        parts.append(svg.text(axes.left - 8, top + 18, str(row.arm), anchor="end"))
        for shift, ratio in ((0, row.first_token_ratio), (15, row.token_ratio)):
            width = axes.x(ratio or 0) - axes.left
            colour = colour_of(row.arm.name)
            parts.append(svg.bar(axes.left, top + shift, width, 12, colour))
    parts.append(
        svg.line(axes.x(1), axes.top, axes.x(1), height - axes.bottom, svg.INK)
    )
    return axes.draw(parts, label="Time as a multiple of the bare model's")


def _key(axes: Axes, families: Sequence[str]) -> list[str]:
    """Return the colours with their names, where a good arm is never found."""
    left, low = axes.x(0.80), axes.y(0.04)
    parts = []
    for place, family in enumerate(reversed(families)):
        y = low - 18 * place
        parts.append(svg.dot(left, y - 4, colour_of(family)))
        parts.append(svg.text(left + 12, y, family, fill=svg.INK))
    return parts


def family_of(name: str) -> str:
    """Return what arms of one colour have in common, by an arm's name."""
    return next((f for f in _FAMILIES if name.startswith(f"{f}-")), name)


def _family(arm: ArmSummary) -> str:
    return family_of(arm.arm.name)


def _family_path(
    axes: Axes, arms: Sequence[ArmSummary], named: list[Mark]
) -> list[str]:
    """Return the points of one family, joined where they differ in dose.

    Their names are added to `named`, to be put where there is room in the end.
    """
    parts: list[str] = []
    points: list[tuple[float, float]] = []
    colour = colour_of(arms[0].arm.name)
    marks: list[str] = []
    for arm in arms:
        across, up = arm.figures["benign_refused"], arm.figures["harmful_refused"]
        if across is None or up is None:
            continue
        x, y = axes.x(across.value), axes.y(up.value)
        points.append((x, y))
        faint = 'opacity="0.35"'
        marks.append(
            svg.line(axes.x(across.low), y, axes.x(across.high), y, colour, more=faint)
        )
        marks.append(
            svg.line(x, axes.y(up.low), x, axes.y(up.high), colour, more=faint)
        )
        hint = f"{arm.arm}: {up.value:.0%} harmful, {across.value:.0%} harmless refused"
        # Reports that were published earlier know no dodges.
        if (dodged := arm.figures.get("harmful_dodged")) is not None:
            hint += f"; {dodged.value:.0%} harmful dodged"
        marks.append(svg.dot(x, y, colour, title=hint))
        named.append(Mark(x=x, y=y, name=_short_name(arm.arm), colour=colour))
    if len(points) > 1 and _family(arms[0]) not in _UNORDERED:
        parts.append(svg.path(points, colour, more='opacity="0.6"'))
    return parts + marks


def _short_name(arm: Arm) -> str:
    """Return what tells an arm from the others of its colour."""
    if arm.alpha is not None:
        return f"{arm.alpha:g}"
    return arm.policy or arm.name.partition("-")[2] or arm.name


def _stack(axes: Axes, spread: DoseSpread, place: int) -> list[str]:
    left, right = axes.x(spread.edges[place]), axes.x(spread.edges[place + 1])
    below, parts = 0, []
    for suite, bins in spread.counts.items():
        if bins[place]:
            top = axes.y(below + bins[place])
            height = axes.y(below) - top
            colour = _SUITES.get(suite, _OTHER)
            hint = f"{bins[place]} {suite}"
            parts.append(
                svg.bar(left + 1, top, right - left - 2, height, colour, title=hint)
            )
        below += bins[place]
    return parts
