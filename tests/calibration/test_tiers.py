from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from sarguard.calibration.tiers import TIERS, tier_rules
from sarguard.steering.dose import DoseRule

TRUSTED = 0.9


def harmless(mean: float = -1.0, spread: float = 0.5) -> Tensor:
    """Return what harmless requests scored."""
    generator = torch.Generator().manual_seed(1)
    return mean + spread * torch.randn(20_000, generator=generator)


def rules_of(scores: Tensor, alpha: float = 0.1) -> dict[str, DoseRule]:
    return tier_rules([scores], auc=TRUSTED, alpha=alpha)


def test_a_tier_blocks_its_share_of_harmless_requests() -> None:
    found = harmless()
    for name, rule in rules_of(found).items():
        blocked = [rule.decide(score).blocked for score in found.tolist()]
        share = sum(blocked) / len(blocked)
        assert share == pytest.approx(TIERS[name].harmless_blocked, rel=0.25)


def test_every_tier_is_stricter_than_the_one_before() -> None:
    rules = list(rules_of(harmless()).values())
    for mild, strict in itertools.pairwise(rules):
        assert strict.floor > mild.floor
        assert strict.block is not None
        assert mild.block is not None
        assert strict.block < mild.block
        for score in (-2.0, -1.0, -0.5, 0.0, 0.5, 2.0):
            assert strict.decide(score).alpha >= mild.decide(score).alpha


def test_coefficients_follow_the_bundles_alpha() -> None:
    weak, strong = (rules_of(harmless(), alpha)["strict"] for alpha in (0.1, 0.2))
    assert strong.ceiling == 0.2
    assert strong.floor == pytest.approx(2 * weak.floor)
    assert strong.block == weak.block


def test_the_context_that_scores_highest_sets_the_threshold() -> None:
    plain, high, low = harmless(), harmless(0.5), harmless(-9.0)
    alone, all_of_them, with_low = (
        tier_rules(contexts, auc=TRUSTED, alpha=0.1)["balanced"].block
        for contexts in ([high], [plain, high, low], [plain, low])
    )
    assert all_of_them == alone
    # A context that lies far below neither raises nor lowers it.
    assert with_low == rules_of(plain)["balanced"].block


def test_scores_that_never_vary_still_make_rules() -> None:
    assert rules_of(-torch.ones(3))["balanced"].decide(1.0).blocked


@pytest.mark.parametrize("auc", [0.5, 0.79, float("nan")])
def test_a_gate_that_cannot_tell_is_not_used(auc: float) -> None:
    rules = tier_rules([harmless()], auc=auc, alpha=0.15)
    for name, rule in rules.items():
        for score in (-9.0, 0.0, 9.0):
            found = rule.decide(score)
            assert found.alpha == pytest.approx(TIERS[name].constant * 0.15)
            assert not found.blocked
    floors = [rule.floor for rule in rules.values()]
    assert floors == sorted(floors)
