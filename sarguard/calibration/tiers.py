"""Tiers: named operating points of the conditioned dose.

A tier says which share of harmless requests like those of the calibration may be
blocked, and the steering coefficient that every request gets at the least. The block
threshold that belongs to that share comes from what harmless requests scored, out of
fold, taken as normal, in the context of the calibration where it is highest:

    t = max over the contexts of  mean(harmless) + z(1 - share) * deviation(harmless)

At t and above a request is blocked. Below, the coefficient rises from the floor,
reached halfway between the highest harmless mean and t, to the ceiling at t.

A gate that cannot tell the two apart is not used: where cross-validation finds an area
under the curve below `TRUSTED_AUC`, a tier steers every request alike and blocks none.

`sarguard.evaluation.tier_search` replaces these rules by ones chosen on measured
answers. Either way they are kept in the bundle's card, where requests find them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from types import MappingProxyType

from torch import Tensor

from sarguard.steering.dose import DoseRule, DoseSpec

DEFAULT_TIER = "balanced"
TRUSTED_AUC = 0.8
"""Area under the curve from which on the dose depends on the gate."""
# Scores that are all equal have none, and a rule needs its two scores apart.
_MIN_DEVIATION = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """An operating point, on any model."""

    harmless_blocked: float
    """Share of harmless requests that may be blocked, as the calibration saw it."""
    floor: float
    """Least steering coefficient, as a part of the bundle's alpha."""
    constant: float
    """Coefficient where the gate is not trusted, as a part of the bundle's alpha."""


TIERS: Mapping[str, Tier] = MappingProxyType(
    {
        "permissive": Tier(harmless_blocked=0.005, floor=0.1, constant=1 / 3),
        "balanced": Tier(harmless_blocked=0.02, floor=0.2, constant=2 / 3),
        "strict": Tier(harmless_blocked=0.05, floor=0.3, constant=1.0),
        "maximum": Tier(harmless_blocked=0.15, floor=0.5, constant=4 / 3),
    }
)
"""Every tier, the mildest first."""


def tier_rules(
    harmless: Sequence[Tensor], *, auc: float, alpha: float
) -> dict[str, DoseRule]:
    """Return the dose rule of every tier on one model.

    Args:
        harmless: What harmless requests scored in each context, out of fold.
        auc: Chance that a harmful clip outscores a harmless one.
        alpha: Coefficient that refuses harmful requests when every request gets it.
    """
    # An AUC that is no number is not trusted either.
    if not auc >= TRUSTED_AUC:
        return {name: _constant(tier, alpha) for name, tier in TIERS.items()}
    return {name: _conditioned(tier, harmless, alpha) for name, tier in TIERS.items()}


def block_threshold(tier: Tier, harmless: Sequence[Tensor]) -> float:
    """Return t, the score from which on a tier blocks."""
    z = NormalDist().inv_cdf(1 - tier.harmless_blocked)
    # Contexts that lie apart are no normal distribution together, so each counts alone.
    return max(
        float(scores.mean()) + z * max(float(scores.std()), _MIN_DEVIATION)
        for scores in harmless
    )


def _constant(tier: Tier, alpha: float) -> DoseRule:
    return DoseSpec.constant(_part(tier.constant, alpha)).rule


def _conditioned(tier: Tier, harmless: Sequence[Tensor], alpha: float) -> DoseRule:
    threshold = block_threshold(tier, harmless)
    middle = max(float(scores.mean()) for scores in harmless)
    return DoseRule(
        floor=_part(tier.floor, alpha),
        ceiling=alpha,
        low=(middle + threshold) / 2,
        high=threshold,
        block=threshold,
    )


def _part(share: float, alpha: float) -> float:
    # Cards and reports are read by people: 0.1, not 0.09999999999999999.
    return float(f"{share * alpha:.6g}")
