from __future__ import annotations

import ast
from pathlib import Path

import pytest

from sarguard.errors import PolicyFloorError, PolicyFormatError
from sarguard.policy.model import Policy
from sarguard.policy.tiers import Tier

CALIBRATION = (
    Path(__file__).resolve().parents[2] / "sarguard" / "calibration" / "tiers.py"
)


def test_tiers_are_ordered_the_weakest_first() -> None:
    assert Tier.PERMISSIVE < Tier.BALANCED < Tier.STRICT < Tier.MAXIMUM
    assert sorted(reversed(Tier)) == list(Tier)
    assert max(Tier.STRICT, Tier.BALANCED) is Tier.STRICT


def test_a_tier_is_not_compared_with_a_word() -> None:
    with pytest.raises(TypeError):
        _ = Tier.STRICT < "maximum"  # type: ignore[operator]


def test_an_unknown_tier_gets_a_suggestion() -> None:
    with pytest.raises(PolicyFormatError, match="Did you mean strict"):
        Tier.named("strickt")


def test_calibration_has_the_same_tiers() -> None:
    # Parsed, not imported: policies need no torch.
    tree = ast.parse(CALIBRATION.read_text("utf-8"))
    keys = [
        [key.value for key in node.keys if isinstance(key, ast.Constant)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
    ]
    assert [tier.value for tier in Tier] in keys


def test_a_request_gets_its_tier_from_the_floor_upwards() -> None:
    policy = Policy.build({"steering": {"tier": "strict", "floor": "balanced"}})
    assert policy.effective_tier() is Tier.STRICT
    assert policy.effective_tier("balanced") is Tier.BALANCED
    assert policy.effective_tier(Tier.MAXIMUM) is Tier.MAXIMUM
    with pytest.raises(PolicyFloorError, match="the floor of policy unnamed is bal"):
        policy.effective_tier("permissive")


def test_without_a_floor_the_tier_is_the_floor() -> None:
    policy = Policy.build({"steering": {"tier": "strict"}})
    assert policy.floor is Tier.STRICT
    with pytest.raises(PolicyFloorError):
        policy.effective_tier("balanced")
