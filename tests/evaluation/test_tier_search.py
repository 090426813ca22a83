from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from sarguard.errors import InsufficientDataError
from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.run.runner import RunOptions
from sarguard.evaluation.tier_search import (
    AIMS,
    Aim,
    Response,
    _added,
    candidates,
    choose_rules,
    choose_tiers,
    prove_tiers,
    respond,
)
from sarguard.steering.bundle import SteeringBundle, TierCaps
from sarguard.steering.dose import DoseRule
from tests.evaluation.made_up import record
from tests.evaluation.test_arms import make_setup
from tests.evaluation.test_runner import ITEMS

EACH = 200


def response(*, apart: float, refuse_from: float = 0.15) -> Response:
    """Return requests whose scores lie so far apart and that obey one strength."""
    draw = np.random.default_rng(5)
    alphas = np.array([0.0, 0.05, 0.1, 0.15, 0.2])
    suites = np.array(["harmful", "safe"]).repeat(EACH)
    middle = np.where(suites == "harmful", apart / 2, -apart / 2)
    scores = middle + draw.normal(size=2 * EACH)
    refused = np.repeat((alphas >= refuse_from)[:, None], 2 * EACH, axis=1)
    return Response(
        alphas=alphas, refused=refused.astype(float), scores=scores, suites=suites
    )


def caps(share: float) -> TierCaps:
    return TierCaps(safe=share, borderline=share, ordinary=share)


def test_a_rule_is_judged_by_what_was_refused_at_its_strengths() -> None:
    asked = response(apart=4)
    weak = asked.under(DoseRule(floor=0.1, ceiling=0.1, low=-1, high=1))
    assert (weak.harmful_refused, weak.benign_added, weak.dose) == (0, 0, 0.1)
    between = asked.under(DoseRule(floor=0.125, ceiling=0.125, low=-1, high=1))
    assert between.harmful_refused == pytest.approx(0.5)
    blocks = DoseRule(floor=0.05, ceiling=0.1, low=-1, high=0, block=0.0)
    found = asked.under(blocks)
    assert found.harmful_refused == np.mean(asked.scores[asked.harmful] >= 0)
    assert found.benign_added == np.mean(asked.scores[~asked.harmful] >= 0)


def test_a_gate_that_tells_is_used_and_keeps_the_cap() -> None:
    asked = response(apart=6)
    chosen = choose_rules(asked)
    assert list(chosen) == list(AIMS)
    for name, rule in chosen.items():
        assert asked.under(rule).added["safe"] <= AIMS[name].caps.safe
    assert asked.under(chosen["balanced"]).harmful_refused >= 0.97
    assert chosen["balanced"].ceiling > chosen["balanced"].floor


def test_a_gate_that_cannot_tell_is_not_asked() -> None:
    asked = response(apart=0.2)
    assert all(rule.floor == rule.ceiling for rule in candidates(asked))
    # Nobody is refused below 0.15 and everybody above: the cap decides.
    assert choose_rules(asked)["balanced"].ceiling < 0.15


def test_no_tier_is_weaker_than_a_milder_one_anywhere() -> None:
    asked = response(apart=3)
    for mild, strict in itertools.pairwise(choose_rules(asked).values()):
        for score in [*asked.scores.tolist(), -50.0, 50.0]:
            ours, theirs = strict.decide(score), mild.decide(score)
            assert ours.alpha >= theirs.alpha
            assert ours.blocked or not theirs.blocked


def test_of_rules_that_meet_the_aim_the_one_that_spares_most_is_chosen() -> None:
    asked = response(apart=8)
    loose = {"only": Aim(harmful_refused=0.5, caps=caps(0.5))}
    found = asked.under(choose_rules(asked, loose)["only"])
    every = [asked.under(rule) for rule in candidates(asked)]
    met = [other for other in every if other.harmful_refused >= 0.5]
    assert found.benign_added == min(other.benign_added for other in met) < 0.01
    assert found.harmful_refused > 0.95
    alike = [
        other
        for other in every
        if (other.benign_added, other.harmful_refused)
        == (found.benign_added, found.harmful_refused)
    ]
    assert len(alike) > 1
    apart = max(other.harmful_dose - other.dose for other in alike)
    assert found.harmful_dose - found.dose == apart


def test_every_suite_is_held_to_its_own_cap() -> None:
    asked = response(apart=6)
    # The last harmless requests are of another suite, and score as harmful ones do.
    suites, scores = asked.suites.astype("<U8"), asked.scores.copy()
    suites[-EACH // 10 :] = "ordinary"
    scores[-EACH // 10 :] += 6
    asked = replace(asked, suites=suites, scores=scores)
    loose = TierCaps(safe=0.1, borderline=0.1, ordinary=1.0)
    for ordinary, blocks in ((1.0, True), (0.05, False)):
        limits = loose.model_copy(update={"ordinary": ordinary})
        aim = Aim(harmful_refused=0.9, caps=limits)
        found = asked.under(choose_rules(asked, {"only": aim})["only"])
        assert (found.harmful_refused > 0.9) == blocks
        assert found.added["ordinary"] <= ordinary
        assert found.above(limits) <= 0


def test_a_suite_without_a_cap_is_held_to_that_of_matched_requests() -> None:
    asked = response(apart=4)
    blocks = DoseRule(floor=0.05, ceiling=0.1, low=-3, high=-2, block=-2.0)
    other = replace(asked, suites=np.where(asked.harmful, "harmful", "theirs"))
    assert other.under(blocks).above(caps(0.1)) == asked.under(blocks).above(caps(0.1))


def test_a_block_may_lie_above_the_score_of_the_ceiling() -> None:
    every = list(candidates(response(apart=4)))
    assert any(rule.block is not None and rule.block > rule.high for rule in every)
    assert all(rule.block is None or rule.block >= rule.high for rule in every)


def test_a_harmful_request_counts_as_one_whatever_its_suite_is_called() -> None:
    records = [
        record("bare", "h", Label.COMPLIED, suite="theirs", kind="harmful", dose=0.0),
        record("bare", "s", Label.ANSWERED, suite="theirs", kind="safe", dose=0.0),
    ]
    records = [r.model_copy(update={"score": 0.0}) for r in records]
    assert respond(records).suites.tolist() == ["harmful", "theirs"]


def test_a_dodge_counts_against_a_tier_whoever_asked() -> None:
    records = [
        record(
            arm,
            item,
            Label.DODGED if dodges and plain is not Label.REFUSED else plain,
            suite=suite,
            dose=dose,
            score=0.0,
        )
        for arm, dose, dodges in (
            ("bare", 0.0, False),
            ("ablated 0.2", 0.2, True),
            ("tier-strict", 0.2, True),
        )
        for item, suite, plain in (
            ("h", "harmful", Label.COMPLIED),
            ("s", "safe", Label.ANSWERED),
            ("t", "safe", Label.ANSWERED),
            ("b", "borderline", Label.REFUSED),
        )
    ]
    found = respond([r for r in records if r.arm.name != "tier-strict"])
    # Not withheld from who asks for harm; not given to who does not.
    assert found.refused.tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    strict = records[-1].arm
    assert _added(records, strict, "safe") == 1.0
    assert _added(records, strict, "borderline") == 0.0
    assert _added(records, strict) == pytest.approx(2 / 3)
    assert _added(records, strict, "ordinary") is None


def test_a_cap_that_nothing_keeps_takes_the_nearest() -> None:
    asked = response(apart=0.1, refuse_from=0.05)
    rule = choose_rules(asked, {"only": Aim(harmful_refused=0.9, caps=caps(0.1))})
    assert rule["only"].ceiling == 0.05


def test_records_become_a_response() -> None:
    records = [
        record(arm, item, label, suite=suite, dose=dose, score=score)
        for arm, dose, labels in (
            ("bare", 0.0, (Label.COMPLIED, Label.ANSWERED)),
            ("ablated 0.2", 0.2, (Label.REFUSED, Label.ANSWERED)),
        )
        for (item, suite, score), label in zip(
            (("h", "harmful", 0.9), ("s", "safe", -0.8)), labels, strict=True
        )
    ]
    found = respond(records)
    assert found.alphas.tolist() == [0.0, 0.2]
    assert found.refused.tolist() == [[0, 0], [1, 0]]
    assert found.scores.tolist() == [0.9, -0.8]
    assert found.suites.tolist() == ["harmful", "safe"]
    assert found.auc == 1
    with pytest.raises(InsufficientDataError, match="1 harmful and 0 harmless"):
        respond([r for r in records if r.item == "h"])


def test_tiers_carry_what_was_measured(tiny_bundle: SteeringBundle) -> None:
    setup = make_setup(tiny_bundle)
    run_options = RunOptions(max_new_tokens=3, batch_size=4)
    chosen = choose_tiers(setup, ITEMS, alphas=(0.1, 0.3), run_options=run_options)
    assert chosen.digest != tiny_bundle.digest
    setup = make_setup(chosen)
    tested = prove_tiers(setup, ITEMS[:3], run_options=run_options)
    for name, tier in tested.card.tiers.items():
        choice = tier.choice
        assert choice is not None
        assert (choice.aim, choice.caps) == (
            AIMS[name].harmful_refused,
            AIMS[name].caps,
        )
        assert (choice.validation.harmful, choice.validation.harmless) == (3, 2)
        assert choice.test is not None
        assert (choice.test.harmful, choice.test.harmless) == (2, 1)
        assert choice.validation.borderline_added is None
        assert tier.rule.ceiling in (0.1, 0.3)
