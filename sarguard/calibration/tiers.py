"""Tiers: named operating points of the conditioned dose.

A tier says which share of harmless requests like those of the calibration may be
blocked, and how strongly every request is steered at the least. The score that
belongs to that share comes from the gate's out-of-fold scores, taken as normal:

    t = mean(safe) + z(1 - share) * deviation(safe)

At t and above a request is blocked. Below, the strength rises from the floor, reached
halfway between the harmless mean and t, to the ceiling at t.

A gate that cannot tell is not asked: where cross-validation finds an area under the
curve below `TRUSTED_AUC`, a tier steers every request alike and blocks none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from types import MappingProxyType

from sarguard.steering.dose import DoseRule
from sarguard.steering.gate import GateQuality

DEFAULT_TIER = "balanced"
TRUSTED_AUC = 0.8
"""Least area under the curve at which the dose depends on the gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Define an operating point, on any model."""

    harmless_blocked: float
    """Share of harmless requests that may be blocked, as the calibration saw it."""
    floor: float
    """Least strength, as a part of the bundle's alpha."""
    constant: float
    """Strength where the gate is not trusted, as a part of the bundle's alpha."""


TIERS: Mapping[str, Tier] = MappingProxyType(
    {
        "permissive": Tier(harmless_blocked=0.005, floor=0.1, constant=1 / 3),
        "balanced": Tier(harmless_blocked=0.02, floor=0.2, constant=2 / 3),
        "strict": Tier(harmless_blocked=0.05, floor=0.3, constant=1.0),
        "maximum": Tier(harmless_blocked=0.15, floor=0.5, constant=4 / 3),
    }
)
"""Every tier, the mildest first."""


def tier_rules(quality: GateQuality, alpha: float) -> dict[str, DoseRule]:
    """Return the dose rule of every tier on one model.

    Args:
        quality: Out-of-fold scores of the model's gate.
        alpha: Strength that refuses harmful requests when every request gets it.
    """
    middle = float(quality.harmless.mean())
    spread = max(float(quality.harmless.std()), 1e-6)
    if not quality.auc >= TRUSTED_AUC:
        return {name: _constant(tier, alpha) for name, tier in TIERS.items()}
    return {name: _rule(tier, middle, spread, alpha) for name, tier in TIERS.items()}


def _part(share: float, alpha: float) -> float:
    # Cards and reports are read by people: 0.1, not 0.09999999999999999.
    return float(f"{share * alpha:.6g}")


def _constant(tier: Tier, alpha: float) -> DoseRule:
    strength = _part(tier.constant, alpha)
    return DoseRule(floor=strength, ceiling=strength, low=-1.0, high=1.0)


def _rule(tier: Tier, middle: float, spread: float, alpha: float) -> DoseRule:
    threshold = middle + NormalDist().inv_cdf(1 - tier.harmless_blocked) * spread
    return DoseRule(
        floor=_part(tier.floor, alpha),
        ceiling=alpha,
        low=(middle + threshold) / 2,
        high=threshold,
        block=threshold,
    )
