from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sarguard.errors import ConfigurationError
from sarguard.steering.dose import ConditionedDose, ConstantDose, DoseRule
from sarguard.steering.gate import Gate

RULE = DoseRule(floor=0.01, ceiling=0.2, low=-0.5, high=0.5, block=0.8)


def gate() -> Gate:
    """Return a gate whose score is the last layer's first coordinate."""
    return Gate(
        directions=torch.tensor([[1.0, 0.0]]), offsets=torch.zeros(1), first_layer=1
    )


def states(*scores: float) -> torch.Tensor:
    return torch.stack(
        [torch.full((len(scores), 2), 9.0), torch.tensor([[s, 7.0] for s in scores])]
    )


def test_a_constant_dose_reads_nothing() -> None:
    dose = ConstantDose(alpha=0.1)
    assert not dose.reads_states
    assert [d.alpha for d in dose.decide(None, 3)] == [0.1] * 3
    assert {d.score for d in dose.decide(None, 3)} == {None}


@pytest.mark.parametrize(
    ("score", "alpha"),
    [(-9.0, 0.01), (-0.5, 0.01), (0.0, 0.105), (0.25, 0.1525), (0.5, 0.2), (3.0, 0.2)],
)
def test_the_strength_rises_in_a_straight_line(score: float, alpha: float) -> None:
    assert RULE.decide(score).alpha == pytest.approx(alpha)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_score_goes_unsteered(score: float) -> None:
    found = RULE.decide(score)
    assert RULE.floor <= found.alpha <= RULE.ceiling
    assert found.blocked == (not score < 0.8 or math.isinf(score))


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_more_harm_is_never_steered_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert RULE.decide(low).alpha <= RULE.decide(high).alpha
    assert RULE.decide(low).blocked <= RULE.decide(high).blocked


def test_without_a_block_threshold_only_nonsense_is_blocked() -> None:
    rule = DoseRule(floor=0.01, ceiling=0.2, low=0, high=1)
    assert not rule.decide(1e9).blocked
    assert rule.decide(math.nan).blocked


def test_a_batch_is_scored_row_by_row() -> None:
    dose = ConditionedDose(gate=gate(), rules=[RULE])
    found = dose.decide(states(-2.0, 0.0, 0.9), 3)
    assert [d.score for d in found] == pytest.approx([-2.0, 0.0, 0.9])
    assert [d.blocked for d in found] == [False, False, True]


def test_a_batch_may_mix_rules() -> None:
    mild = DoseRule(floor=0.02, ceiling=0.03, low=-1, high=1)
    dose = ConditionedDose(gate=gate(), rules=[RULE, mild])
    strong, weak = dose.decide(states(2.0, 2.0), 2)
    assert (strong.alpha, strong.blocked) == (0.2, True)
    assert (weak.alpha, weak.blocked) == (0.03, False)


def test_constant_rules_ask_no_gate() -> None:
    alike = DoseRule(floor=0.1, ceiling=0.1, low=-1, high=1)
    dose = ConditionedDose(gate=gate(), rules=[alike])
    assert not dose.reads_states
    for given_states in (None, states(9.0, math.nan)):
        found = dose.decide(given_states, 2)
        assert [(d.alpha, d.score, d.blocked) for d in found] == [
            (0.1, None, False)
        ] * 2


@pytest.mark.parametrize(
    "rule",
    [RULE, DoseRule(floor=0.1, ceiling=0.1, low=-1, high=1, block=2.0)],
)
def test_a_rule_that_steers_or_blocks_by_the_score_asks_the_gate(
    rule: DoseRule,
) -> None:
    alike = DoseRule(floor=0.1, ceiling=0.1, low=-1, high=1)
    assert ConditionedDose(gate=gate(), rules=[rule]).reads_states
    assert ConditionedDose(gate=gate(), rules=[alike, rule]).reads_states


def test_missing_states_are_an_error() -> None:
    dose = ConditionedDose(gate=gate(), rules=[RULE])
    with pytest.raises(ConfigurationError, match="found None"):
        dose.decide(None, 1)
    with pytest.raises(ConfigurationError, match="2 row"):
        dose.decide(states(1.0), 2)


@pytest.mark.parametrize("alpha", [0.0, -0.1, math.nan, math.inf])
def test_a_strength_is_finite_and_above_zero(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match="nothing answers unsteered"):
        ConstantDose(alpha=alpha)
    with pytest.raises(ConfigurationError, match="floor"):
        DoseRule(floor=alpha, ceiling=1.0, low=0, high=1)


def test_a_rule_makes_sense() -> None:
    with pytest.raises(ConfigurationError, match="below floor"):
        DoseRule(floor=0.2, ceiling=0.1, low=0, high=1)
    with pytest.raises(ConfigurationError, match="low below high"):
        DoseRule(floor=0.1, ceiling=0.2, low=1, high=1)
    with pytest.raises(ConfigurationError, match="finite"):
        DoseRule(floor=0.1, ceiling=0.2, low=0, high=1, block=math.nan)
