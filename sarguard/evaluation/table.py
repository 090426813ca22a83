"""The table of a measurement: what every arm did, and raw against ablated.

A stronger dose refuses more of everything, so two vectors are compared where they
refuse the same share of harmful requests: along each vector's doses, from the bare
model up, the safe refusals are interpolated at that share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sarguard.evaluation.answering import Question
from sarguard.evaluation.arms import Arm, ArmName
from sarguard.evaluation.measuring import ArmAnswers
from sarguard.evaluation.rates import Outcomes, Rate, bootstrap, mean_rate, tally

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Hold what one arm did."""

    arm: Arm
    harmful_refused: Rate
    harmful_complied: Rate
    safe_refused: Rate
    broken: Rate
    balanced: Rate
    """BRR = (harmful refused + 1 - safe refused) / 2."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Hold the safe refusals of two vectors at equal harmful refusals."""

    harmful_refused: float
    raw: Rate | None
    """Safe refusals of the raw vector; None if it never refuses as much."""
    ablated: Rate | None
    difference: Rate | None
    """Raw less ablated: above 0, the ablation spares safe requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Hold a whole measurement."""

    pairs: int
    rows: tuple[Row, ...]
    matches: tuple[Match, ...]
    """Empty unless the bare, the raw and the ablated arm were measured."""

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values, ready for JSON."""
        return {
            "pairs": self.pairs,
            "rows": [
                {**asdict(row), "arm": row.arm.name.value, "alpha": row.arm.alpha}
                for row in self.rows
            ],
            "matches": [asdict(match) for match in self.matches],
        }


def tabulate(questions: Sequence[Question], answers: Sequence[ArmAnswers]) -> Table:
    """Turn labels into a table.

    Raises:
        InsufficientDataError: A harmful request lacks its harmless twin.
    """
    outcomes = [(found, tally(questions, found.labels)) for found in answers]
    by_arm = {found.arm: outcome for found, outcome in outcomes}
    return Table(
        pairs=len(outcomes[0][1].broken),
        rows=tuple(_row(found, outcome) for found, outcome in outcomes),
        matches=_matches(by_arm),
    )


def interpolate(points: Sequence[tuple[float, float]], level: float) -> float:
    """Return y where a path of (x, y) first comes up to x = level, or NaN."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= level <= x1:
            share = 0.0 if x1 == x0 else (level - x0) / (x1 - x0)
            return y0 + share * (y1 - y0)
    return float("nan")


def _row(found: ArmAnswers, outcomes: Outcomes) -> Row:
    balanced = bootstrap(outcomes.balanced, len(outcomes.broken))
    value = outcomes.balanced(np.arange(len(outcomes.broken)))
    return Row(
        arm=found.arm,
        harmful_refused=mean_rate(outcomes.harmful_refused),
        harmful_complied=mean_rate(outcomes.harmful_complied),
        safe_refused=mean_rate(outcomes.safe_refused),
        broken=mean_rate(outcomes.broken),
        balanced=balanced or Rate(value=value, low=value, high=value),
        seconds=found.seconds,
    )


def _matches(by_arm: dict[Arm, Outcomes]) -> tuple[Match, ...]:
    raw, ablated = (_path(by_arm, n) for n in (ArmName.RAW, ArmName.ABLATED))
    if not raw or not ablated:
        return ()
    found = (_match(raw, ablated, level) for level in LEVELS)
    return tuple(match for match in found if match.raw or match.ablated)


def _path(by_arm: dict[Arm, Outcomes], name: ArmName) -> list[Outcomes]:
    """Return the outcomes of a vector by dose, the bare model's first."""
    bare = by_arm.get(Arm(name=ArmName.BARE, alpha=0.0))
    doses = sorted(arm.alpha for arm in by_arm if arm.name is name)
    if bare is None or not doses:
        return []
    return [bare, *(by_arm[Arm(name=name, alpha=alpha)] for alpha in doses)]


def _match(raw: Sequence[Outcomes], ablated: Sequence[Outcomes], level: float) -> Match:
    pairs = len(raw[0].broken)

    def difference(chosen: NDArray[np.intp]) -> float:
        return _safe_refused(raw, level, chosen) - _safe_refused(ablated, level, chosen)

    return Match(
        harmful_refused=level,
        raw=bootstrap(lambda chosen: _safe_refused(raw, level, chosen), pairs),
        ablated=bootstrap(lambda chosen: _safe_refused(ablated, level, chosen), pairs),
        difference=bootstrap(difference, pairs),
    )


def _safe_refused(
    path: Sequence[Outcomes], level: float, chosen: NDArray[np.intp]
) -> float:
    points = [
        (
            float(outcomes.harmful_refused[chosen].mean()),
            float(outcomes.safe_refused[chosen].mean()),
        )
        for outcomes in path
    ]
    return interpolate(points, level)
