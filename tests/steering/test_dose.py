from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.errors import ConfigurationError, SteeringNotAppliedError
from sarguard.steering.dose import Decision, DoseRule, DoseSpec

RULE = DoseRule(floor=0.01, ceiling=0.2, low=-0.5, high=0.5, block=0.8)


ALIKE = DoseRule(floor=0.1, ceiling=0.1, low=-1, high=1)


def test_a_constant_dose_needs_no_score() -> None:
    dose = DoseSpec.constant(0.1)
    assert (dose.reads_states, dose.mode) == (False, "faithful")
    assert dose.decide() == dose.decide(9.0) == Decision(alpha=0.1)


@pytest.mark.parametrize(
    ("score", "alpha"),
    [(-9.0, 0.01), (-0.5, 0.01), (0.0, 0.105), (0.25, 0.1525), (0.5, 0.2), (3.0, 0.2)],
)
def test_alpha_rises_in_a_straight_line(score: float, alpha: float) -> None:
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


def test_a_constant_rule_needs_no_gate() -> None:
    dose = DoseSpec(rule=ALIKE)
    assert not dose.reads_states
    assert dose.decide(math.nan) == Decision(alpha=0.1)


@pytest.mark.parametrize(
    "rule",
    [RULE, DoseRule(floor=0.1, ceiling=0.1, low=-1, high=1, block=2.0)],
)
def test_a_rule_that_steers_or_blocks_by_the_score_needs_the_gate(
    rule: DoseRule,
) -> None:
    dose = DoseSpec(rule=rule)
    assert (dose.reads_states, dose.mode) == (True, "conditioned")
    with pytest.raises(SteeringNotAppliedError, match="there is none"):
        dose.decide()


@given(st.floats(-3, 3), st.floats(0.001, 1))
def test_no_answer_falls_below_the_least_coefficient(
    score: float, bound: float
) -> None:
    found = DoseSpec(rule=RULE, min_alpha=bound).decide(score)
    assert found.alpha == max(bound, RULE.decide(score).alpha)


def test_shadow_mode_notes_a_block_and_lets_no_broken_state_through() -> None:
    dose = DoseSpec(rule=RULE, shadow=True)
    assert not dose.decide(0.9).blocked
    assert dose.would_block(0.9)
    assert not dose.would_block(0.1)
    assert not dose.would_block(None)
    assert dose.decide(math.nan).blocked


@given(
    st.builds(
        DoseSpec,
        rule=st.sampled_from([RULE, ALIKE]),
        min_alpha=st.floats(0, 1),
        shadow=st.booleans(),
        bare=st.booleans(),
    )
)
def test_a_dose_survives_json(dose: DoseSpec) -> None:
    assert DoseSpec.from_dict(json.loads(json.dumps(dose.to_dict()))) == dose


@pytest.mark.parametrize("alpha", [0.0, -0.1, math.nan, math.inf])
def test_alpha_is_finite_and_above_zero(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match="nothing answers unsteered"):
        DoseSpec.constant(alpha)
    with pytest.raises(ConfigurationError, match="floor"):
        DoseRule(floor=alpha, ceiling=1.0, low=0, high=1)


def test_a_rule_makes_sense() -> None:
    with pytest.raises(ConfigurationError, match="below floor"):
        DoseRule(floor=0.2, ceiling=0.1, low=0, high=1)
    with pytest.raises(ConfigurationError, match="low below high"):
        DoseRule(floor=0.1, ceiling=0.2, low=1, high=1)
    with pytest.raises(ConfigurationError, match="finite"):
        DoseRule(floor=0.1, ceiling=0.2, low=0, high=1, block=math.nan)


class TestDecisionTokens:
    @given(st.floats(allow_nan=True, allow_infinity=True))
    def test_they_are_greedy_from_where_the_dose_rises(self, score: float) -> None:
        found = DoseSpec(rule=RULE, decision_tokens=6).decide(score)
        assert found.greedy_tokens == (0 if score < RULE.low else 6)

    @pytest.mark.parametrize(
        ("low", "score", "greedy"),
        [
            (1.0, -0.1, 0),
            (1.0, 0.0, 6),
            (1.0, 0.9, 6),
            (-1.0, -0.5, 6),
            (-1.0, -1.5, 0),
        ],
    )
    def test_they_are_greedy_on_the_harmful_side_of_undecided(
        self, low: float, score: float, greedy: int
    ) -> None:
        rule = DoseRule(floor=0.1, ceiling=0.2, low=low, high=2.0)
        found = DoseSpec(rule=rule, decision_tokens=6).decide(score)
        assert found.greedy_tokens == greedy

    @given(st.floats(-3, 3), st.floats(0.01, 1))
    def test_a_coefficient_that_holds_for_every_score_spares_none(
        self, score: float, bound: float
    ) -> None:
        even = DoseRule(floor=0.1, ceiling=0.1, low=-0.5, high=0.5, block=9.0)
        raised = DoseSpec(rule=RULE, min_alpha=bound, decision_tokens=6)
        assert DoseSpec(rule=even, decision_tokens=6).decide(score).greedy_tokens == 6
        assert raised.decide(score).greedy_tokens == (
            0 if score < RULE.low and bound <= RULE.floor else 6
        )

    def test_a_constant_dose_has_them_always(self) -> None:
        dose = replace(DoseSpec.constant(0.3), decision_tokens=6)
        assert dose.decide().greedy_tokens == dose.decide(-9.0).greedy_tokens == 6

    def test_the_bare_models_answer_has_none(self) -> None:
        assert DoseSpec(rule=RULE, bare=True, decision_tokens=6).decide(
            0.7
        ) == Decision(alpha=0.2, score=0.7, bare=True)

    def test_another_process_decides_the_same(self) -> None:
        dose = DoseSpec(rule=RULE, decision_tokens=6)
        there = DoseSpec.from_dict(json.loads(json.dumps(dose.to_dict())))
        assert there.decide(0.0) == dose.decide(0.0)

    def test_fewer_than_none_make_no_sense(self) -> None:
        with pytest.raises(ConfigurationError, match="decision_tokens is -1"):
            DoseSpec(rule=RULE, decision_tokens=-1)
