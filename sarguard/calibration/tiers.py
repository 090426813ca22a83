"""Tiers: named operating points of the conditioned dose.

A tier says which share of harmless requests like those of the calibration may be
blocked, and the steering coefficient that every request gets at the least. The block
threshold that belongs to that share comes from the gate's out-of-fold scores, taken as
normal:

    t = mean(harmless) + z(1 - share) * deviation(harmless)

At t and above a request is blocked. Below, the coefficient rises from the floor,
reached halfway between the harmless mean and t, to the ceiling at t.

A gate that cannot tell the two apart is not used: where cross-validation finds an area
under the curve below `TRUSTED_AUC`, a tier steers every request alike and blocks none.

`sarguard.evaluation.tier_search` replaces these rules by ones chosen on measured
answers. Either way they are kept in the bundle's card, where requests find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from types import MappingProxyType

from sarguard.calibration.gate_fit import GateQuality
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


def tier_rules(quality: GateQuality, alpha: float) -> dict[str, DoseRule]:
    """Return the dose rule of every tier on one model.

    Args:
        quality: Out-of-fold scores of the model's gate.
        alpha: Coefficient that refuses harmful requests when every request gets it.
    """
    # An AUC that is no number is not trusted either.
    if not quality.auc >= TRUSTED_AUC:
        return {name: _constant(tier, alpha) for name, tier in TIERS.items()}
    return {name: _conditioned(tier, quality, alpha) for name, tier in TIERS.items()}


def block_threshold(tier: Tier, quality: GateQuality) -> float:
    """Return t, the score from which on a tier blocks."""
    deviation = max(float(quality.harmless.std()), _MIN_DEVIATION)
    z = NormalDist().inv_cdf(1 - tier.harmless_blocked)
    return float(quality.harmless.mean()) + z * deviation


def _constant(tier: Tier, alpha: float) -> DoseRule:
    return DoseSpec.constant(_part(tier.constant, alpha)).rule


def _conditioned(tier: Tier, quality: GateQuality, alpha: float) -> DoseRule:
    threshold = block_threshold(tier, quality)
    return DoseRule(
        floor=_part(tier.floor, alpha),
        ceiling=alpha,
        low=(float(quality.harmless.mean()) + threshold) / 2,
        high=threshold,
        block=threshold,
    )


def _part(share: float, alpha: float) -> float:
    # Cards and reports are read by people: 0.1, not 0.09999999999999999.
    return float(f"{share * alpha:.6g}")
