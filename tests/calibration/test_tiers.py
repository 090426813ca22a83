from __future__ import annotations

import itertools

import pytest
import torch

from sarguard.calibration.gate_fit import GateQuality
from sarguard.calibration.tiers import TIERS, tier_rules


def quality(safe: float = -1.0, spread: float = 0.5) -> GateQuality:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(20_000, generator=generator)
    return GateQuality(
        harmful=torch.ones(5), safe=safe + spread * drawn, benign=torch.zeros(0)
    )


def test_a_tier_blocks_its_share_of_harmless_requests() -> None:
    found = quality()
    for name, rule in tier_rules(found, alpha=0.1).items():
        blocked = [rule.decide(score).blocked for score in found.harmless.tolist()]
        share = sum(blocked) / len(blocked)
        assert share == pytest.approx(TIERS[name].harmless_blocked, rel=0.25)


def test_every_tier_is_stricter_than_the_one_before() -> None:
    rules = list(tier_rules(quality(), alpha=0.1).values())
    for mild, strict in itertools.pairwise(rules):
        assert strict.floor > mild.floor
        assert strict.block is not None
        assert mild.block is not None
        assert strict.block < mild.block
        for score in (-2.0, -1.0, -0.5, 0.0, 0.5, 2.0):
            assert strict.decide(score).alpha >= mild.decide(score).alpha


def test_coefficients_follow_the_bundles_alpha() -> None:
    weak, strong = (tier_rules(quality(), alpha)["strict"] for alpha in (0.1, 0.2))
    assert strong.ceiling == 0.2
    assert strong.floor == pytest.approx(2 * weak.floor)
    assert strong.block == weak.block


def test_unmatched_clips_count_as_harmless() -> None:
    plain = quality()
    trapped = GateQuality(
        harmful=plain.harmful, safe=plain.safe, benign=torch.full((5_000,), 1.0)
    )
    mild, wary = (tier_rules(q, 0.1)["balanced"].block for q in (plain, trapped))
    assert mild is not None
    assert wary is not None
    assert wary > mild


def test_scores_that_never_vary_still_make_rules() -> None:
    still = GateQuality(
        harmful=torch.ones(3), safe=-torch.ones(3), benign=torch.zeros(0)
    )
    assert tier_rules(still, 0.1)["balanced"].decide(1.0).blocked


def test_a_gate_that_cannot_tell_is_not_used() -> None:
    drawn = torch.randn(400, generator=torch.Generator().manual_seed(2))
    blind = GateQuality(harmful=drawn[:200], safe=drawn[200:], benign=torch.zeros(0))
    rules = tier_rules(blind, alpha=0.15)
    for name, rule in rules.items():
        for score in (-9.0, 0.0, 9.0):
            found = rule.decide(score)
            assert found.alpha == pytest.approx(TIERS[name].constant * 0.15)
            assert not found.blocked
    floors = [rule.floor for rule in rules.values()]
    assert floors == sorted(floors)
