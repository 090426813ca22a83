"""What evaluation measures of tiers and policies is what a client serves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sarguard.calibration.tiers import TIERS
from sarguard.client import SafeAudioLLM
from sarguard.errors import ConfigurationError
from sarguard.evaluation.arms.arm import POLICY, Arm
from sarguard.evaluation.arms.registry import Setup, open_arm
from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.run.batch_answers import answer_arm, make_batches, prefill
from sarguard.evaluation.run.latency import measure_latency
from sarguard.evaluation.run.runner import run_arms
from sarguard.guard.factory import effective_policy
from sarguard.policy.model import Policy
from sarguard.steering.bundle import SteeringBundle, TierCard
from sarguard.types import Outcome
from tests import tiny
from tests.evaluation.test_arms import make_setup, questions
from tests.evaluation.test_runner import ITEMS, RUN_OPTIONS
from tests.serving.fakes import FakeBackend

ARM = Arm(name=POLICY, policy="clinic")
SCORES = (-3.0, 0.2, 0.45, 0.6, 0.9, 5.0, float("nan"))
SHADOW = {"mode": "shadow"}
BARE = {
    "reply": "bare",
    "bare_reason": "a comparison",
    "bare_until": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
}
SECTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tier": {"steering": {"tier": "strict"}},
    "least coefficient": {"steering": {"alpha": 0.3}},
    "block": {"steering": {"block_threshold": 0.4}},
    "never": {"steering": {"tier": "maximum", "block_threshold": "never"}},
    "shadow": {**SHADOW, "steering": {"block_threshold": 0.4}},
    "bare": {**SHADOW, "shadow": BARE},
}


def clinic(name: str) -> Policy:
    given = {"id": "clinic", "version": 3, "audit": {"required": False}}
    return Policy.build({**given, **SECTIONS[name]})


@pytest.fixture(scope="module")
def bundle(tiny_bundle: SteeringBundle) -> SteeringBundle:
    """Return a bundle whose tiers depend on the score, each in its own way."""
    blocks = zip(TIERS, (None, 0.8, 0.7, 0.5), strict=True)
    tiers = {
        name: TierCard(
            floor=0.1 + rank / 10, ceiling=0.9, low=0.0, high=1 - rank / 10, block=block
        )
        for rank, (name, block) in enumerate(blocks)
    }
    card = tiny_bundle.card.model_copy(update={"tiers": tiers})
    return replace(tiny_bundle, card=card)


def measured(bundle: SteeringBundle, policy: Policy) -> Setup:
    policies = {policy.id: effective_policy(policy=policy)}
    return replace(make_setup(bundle), policies=policies)


def served(
    bundle: SteeringBundle,
    score: float,
    **options: Any,  # noqa: ANN401
) -> tuple[float, bool, bool]:
    """Return coefficient, whether it is blocked and whether bare, as a client says."""
    card = bundle.card
    backend = FakeBackend(
        "Y", vectors_digest=card.vectors_digest, layers=card.layers, score=score
    )
    with SafeAudioLLM(backend, bundle, **options) as client:
        # The receipt of an answer of one token that nothing steered.
        backend.skips_steering = client.policy.answers_bare()
        reply = client.generate(text="Is it open?")
    blocked = reply.outcome is Outcome.BLOCKED
    return reply.guard.alpha, blocked, reply.guard.mode == "bare"


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", SECTIONS)
def test_a_policy_decides_as_in_a_client(
    bundle: SteeringBundle, name: str, score: float
) -> None:
    policy = clinic(name)
    found = open_arm(ARM, measured(bundle, policy)).dose.decide(score)
    decided = found.alpha, found.blocked, found.bare
    assert decided == served(bundle, score, policy=policy)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_decides_as_in_a_client(
    bundle: SteeringBundle, tier: str, score: float
) -> None:
    dose = open_arm(Arm(name=f"tier-{tier}"), make_setup(bundle)).dose
    assert dose.rule == bundle.card.tiers[tier].rule
    found = dose.decide(score)
    decided = found.alpha, found.blocked, found.bare
    assert decided == served(bundle, score, tier=tier)


def test_the_policies_differ(bundle: SteeringBundle) -> None:
    doses = [open_arm(ARM, measured(bundle, clinic(name))).dose for name in SECTIONS]
    assert all(doses.count(dose) == 1 for dose in doses)


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("name", SECTIONS)
def test_a_policy_answers_as_in_a_client(
    bundle: SteeringBundle, name: str, read: bool
) -> None:
    setup, policy = measured(bundle, clinic(name)), clinic(name)
    (question,) = questions(0.7)
    (batch,) = make_batches(setup.loaded, [question], size=1)
    arm = open_arm(ARM, setup)
    given = prefill(setup.loaded, batch) if read else batch
    with arm.steerer:
        (answer,) = answer_arm(setup.loaded, arm, given, max_new_tokens=6)
    with SafeAudioLLM.from_loaded(setup.loaded, bundle, policy=policy) as client:
        reply = client.generate((question.audio, tiny.RATE), max_new_tokens=6)
    assert answer.blocked is (reply.outcome is Outcome.BLOCKED)
    assert answer.score == pytest.approx(reply.guard.score, abs=1e-3)
    if not answer.blocked:
        assert answer.text == reply.text.strip()
        alpha = 0.0 if reply.guard.mode == "bare" else reply.guard.alpha
        assert answer.dose == pytest.approx(alpha, abs=1e-3)


def test_what_a_policy_blocks_is_refused_and_shadow_mode_only_notes_it(
    bundle: SteeringBundle,
) -> None:
    always = {"id": "clinic", "steering": {"block_threshold": -1000.0}}
    for extra, blocked in (({}, True), (SHADOW, False)):
        setup = measured(bundle, Policy.build({**always, **extra}))
        records = run_arms(setup, ITEMS, [ARM], run_options=RUN_OPTIONS)
        assert {record.arm for record in records} == {ARM}
        assert [record.blocked for record in records] == [blocked] * len(ITEMS)
        if blocked:
            assert {record.label for record in records} == {Label.REFUSED}


def test_a_dose_that_depends_on_the_request_is_timed(bundle: SteeringBundle) -> None:
    setup = measured(bundle, clinic("never"))
    arms = [Arm(name="bare"), Arm(name="tier-permissive"), ARM]
    found = measure_latency(setup, ITEMS, arms, requests=1)
    assert [row.arm for row in found] == arms
    assert all(row.token_ratio for row in found)


def test_a_policy_that_the_setup_lacks_is_named(bundle: SteeringBundle) -> None:
    with pytest.raises(ConfigurationError, match="no policy 'clinic'"):
        open_arm(ARM, make_setup(bundle))
    with pytest.raises(ConfigurationError, match="there is no arm 'policy'"):
        open_arm(Arm(name=POLICY), make_setup(bundle))


@pytest.mark.parametrize("text", ["bare", "ablated 0.1", "policy clinic"])
def test_an_arm_is_read_as_it_was_written(text: str) -> None:
    assert str(Arm.parse(text)) == text
