from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from sarguard.calibration.recipe import Recipe
from sarguard.calibration.refusal_check import random_direction
from sarguard.errors import ConfigurationError, SteeringError
from sarguard.evaluation.arms import registry
from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.arms.controls import Recalibration, swap_halves
from sarguard.evaluation.arms.registry import (
    OpenArm,
    Setup,
    UnguardedForMeasurement,
    arm_names,
    open_arm,
    plan_arms,
    register_arm,
)
from sarguard.evaluation.run.batch_answers import (
    Answer,
    Question,
    answer_arm,
    answer_batch,
    make_batches,
    prefill,
)
from sarguard.models.inputs import build_inputs
from sarguard.steering.bundle import SteeringBundle, TierCard
from sarguard.steering.steerer import Steerer
from tests import tiny

TOKENS = 8


def questions(*seconds: float) -> list[Question]:
    return [
        Question(pair=f"p{i}", kind="harmful", audio=tiny.clip(s, pitch=150 + 40 * i))
        for i, s in enumerate(seconds)
    ]


def make_setup(bundle: SteeringBundle) -> Setup:
    loaded = tiny.shared()
    return Setup(
        loaded=loaded,
        bundle=bundle,
        again=Recalibration(loaded, Recipe(rank=2), pairs=lambda: tiny.pairs(5)),
    )


@pytest.fixture
def setup(tiny_bundle: SteeringBundle) -> Setup:
    return make_setup(tiny_bundle)


@pytest.fixture
def forget_new_arms() -> Iterator[None]:
    before = dict(registry._BUILDERS)
    yield
    registry._BUILDERS.clear()
    registry._BUILDERS.update(before)


def ask(arm: OpenArm, asked: list[Question], *, read: bool = False) -> dict[int, str]:
    loaded = tiny.shared()
    found: dict[int, str] = {}
    batches = make_batches(loaded, asked, size=8)
    given = [prefill(loaded, batch) if read else batch for batch in batches]
    with arm.steerer:
        for batch in given:
            answers = answer_arm(loaded, arm, batch, max_new_tokens=TOKENS)
            texts = [answer.text for answer in answers]
            found |= dict(zip(batch.places, texts, strict=True))
    return found


def asking_the_gate(setup: Setup) -> Setup:
    """Return a setup whose tiers depend on the score: a tiny gate is not trusted."""
    rule = TierCard(floor=0.1, ceiling=0.5, low=-50.0, high=50.0, block=None)
    tiers = dict.fromkeys(setup.bundle.card.tiers, rule)
    card = setup.bundle.card.model_copy(update={"tiers": tiers})
    return replace(setup, bundle=replace(setup.bundle, card=card))


def plain_answer(question: Question) -> str:
    """Ask transformers itself, with nothing of ours on the model."""
    loaded = tiny.shared()
    inputs = build_inputs(loaded, [question.turns(tiny.RATE)])
    with torch.no_grad():
        output = loaded.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    tokens = output[0, inputs["input_ids"].shape[1] :]
    text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    return str(text).strip()


@pytest.mark.parametrize("name", ["bare", "zero"])
@pytest.mark.parametrize("read", [False, True])
def test_bare_and_zero_are_transformers_own_answer(
    setup: Setup, name: str, read: bool
) -> None:
    asked = questions(0.5, 0.9)
    found = ask(open_arm(Arm(name=name), setup), asked, read=read)
    assert [found[0], found[1]] == [plain_answer(q) for q in asked]


def test_an_arm_leaves_the_model_as_it_was(setup: Setup) -> None:
    asked = questions(0.5)
    before = plain_answer(asked[0])
    ask(open_arm(Arm(name="ablated", alpha=0.5), setup), asked)
    assert plain_answer(asked[0]) == before


def test_the_bare_model_answers_only_inside_its_block() -> None:
    loaded = tiny.shared()
    (batch,) = make_batches(loaded, questions(0.5), size=1)
    with (
        UnguardedForMeasurement(loaded.decoder),
        pytest.raises(SteeringError, match="called directly"),
    ):
        loaded.model(**batch.inputs)


def test_steered_arms_differ_from_bare_and_from_each_other(setup: Setup) -> None:
    asked = questions(0.5, 0.7, 0.9)
    names = ("raw", "ablated", "random", "shuffled")
    chosen = [Arm(name="bare"), *(Arm(name=n, alpha=1.0) for n in names)]
    found = [tuple(ask(open_arm(arm, setup), asked).items()) for arm in chosen]
    assert len(set(found)) == len(chosen)


def test_a_steered_arm_is_the_guarded_decode_of_its_vector(setup: Setup) -> None:
    loaded, asked = tiny.shared(), questions(0.5, 0.9)
    (batch,) = make_batches(loaded, asked, size=2)
    with Steerer(loaded.decoder, setup.bundle.vectors.raw) as steerer:
        said = answer_batch(loaded, steerer, batch, alpha=0.7, max_new_tokens=TOKENS)
    found = ask(open_arm(Arm(name="raw", alpha=0.7), setup), asked)
    assert [found[place] for place in batch.places] == said


@pytest.mark.parametrize("read", [False, True])
def test_a_tier_doses_each_request_by_its_own_state(setup: Setup, read: bool) -> None:
    loaded = tiny.shared()
    (batch,) = make_batches(loaded, questions(0.5, 0.7, 0.9, 1.1), size=4)
    given = prefill(loaded, batch) if read else batch
    asking = asking_the_gate(setup)
    arm = open_arm(Arm(name="tier-maximum"), asking)
    rule = asking.bundle.card.tiers["maximum"].rule
    with arm.steerer:
        answers = answer_arm(loaded, arm, given, max_new_tokens=TOKENS)
    for answer in answers:
        assert answer.score is not None
        decision = rule.decide(answer.score)
        assert (answer.dose, answer.blocked) == (decision.alpha, decision.blocked)
        assert (answer.tokens == 0) is answer.blocked
    assert len({answer.dose for answer in answers}) == 4


def test_a_tiers_block_and_its_steering_are_measured_apart(setup: Setup) -> None:
    asked = questions(0.5, 0.7, 0.9, 1.1)
    (batch,) = make_batches(tiny.shared(), asked, size=4)

    def answers(name: str, given: Setup) -> list[Answer]:
        arm = open_arm(Arm(name=name), given)
        with arm.steerer:
            return answer_arm(tiny.shared(), arm, batch, max_new_tokens=TOKENS)

    asking = asking_the_gate(setup)
    scores = [answer.score or 0.0 for answer in answers("tier-strict", asking)]
    block = sorted(scores)[2]
    rule = TierCard(floor=0.1, ceiling=0.5, low=-50.0, high=50.0, block=block)
    card = asking.bundle.card
    tiers = dict.fromkeys(card.tiers, rule)
    card = card.model_copy(update={"tiers": tiers})
    blocking = replace(setup, bundle=replace(setup.bundle, card=card))

    both = answers("tier-strict", blocking)
    blocked = answers("block-strict", blocking)
    steered = answers("steer-strict", blocking)
    assert [a.blocked for a in both] == [score >= block for score in scores]
    assert [a.blocked for a in blocked] == [a.blocked for a in both]
    assert not any(a.blocked for a in steered)
    assert [a.dose for a in steered] == [rule.rule.decide(s).alpha for s in scores]
    for place, answer in zip(batch.places, blocked, strict=True):
        assert answer.dose == 0.0
        if not answer.blocked:
            assert answer.text == plain_answer(asked[place])


def test_a_tier_whose_gate_is_not_trusted_doses_all_alike(setup: Setup) -> None:
    rule = setup.bundle.card.tiers["maximum"].rule
    assert rule.constant
    (batch,) = make_batches(tiny.shared(), questions(0.5, 0.7), size=2)
    arm = open_arm(Arm(name="tier-maximum"), setup)
    with arm.steerer:
        answers = answer_arm(tiny.shared(), arm, batch, max_new_tokens=TOKENS)
    assert {(a.dose, a.score, a.blocked) for a in answers} == {
        (rule.floor, None, False)
    }


def test_an_arm_of_ones_own_can_be_added(setup: Setup, forget_new_arms: None) -> None:
    def build(given: Setup, alpha: float) -> OpenArm:
        return open_arm(Arm(name="raw", alpha=2 * alpha), given)

    register_arm("double", build, swept=True)
    asked = questions(0.5, 0.9)
    found = ask(open_arm(Arm(name="double", alpha=0.3), setup), asked)
    assert found == ask(open_arm(Arm(name="raw", alpha=0.6), setup), asked)
    with pytest.raises(ConfigurationError, match="already"):
        register_arm("double", build, swept=True)


def test_a_random_direction_has_the_norms_of_the_vector_and_no_other_likeness() -> None:
    ablated = torch.randn(6, 256, generator=torch.Generator().manual_seed(1)) * 3
    drawn = random_direction(ablated)
    torch.testing.assert_close(drawn.norm(dim=-1), ablated.norm(dim=-1))
    cosines = torch.cosine_similarity(drawn, ablated, dim=-1).abs()
    assert float(cosines.max()) < 0.3
    assert torch.equal(drawn, random_direction(ablated))
    assert not torch.equal(drawn, random_direction(ablated, seed=1))


def test_halves_are_swapped_the_same_way_every_time() -> None:
    pairs = tiny.pairs(12)
    swapped = swap_halves(pairs)
    turned = [new.harmful is old.safe for new, old in zip(swapped, pairs, strict=True)]
    assert 2 <= sum(turned) <= 10
    for new, old, other in zip(swapped, pairs, turned, strict=True):
        assert new.safe is (old.harmful if other else old.safe)
    again = [
        p.harmful is q.harmful for p, q in zip(swap_halves(pairs), swapped, strict=True)
    ]
    assert all(again)


def test_the_grid_has_every_dose_of_the_arms_that_have_one() -> None:
    found = [str(arm) for arm in plan_arms([0.2, 0.1, 0.2], ["bare", "raw", "random"])]
    assert found == ["bare", "raw 0.1", "raw 0.2", "random 0.1", "random 0.2"]
    assert len(plan_arms([0.1], arm_names())) == len(arm_names()) == 19


@pytest.mark.parametrize(
    ("name", "alpha", "says"),
    [
        ("bare", 0.1, "no dose"),
        ("ablated", None, "a dose above 0"),
        ("ablated", 0.0, "a dose above 0"),
        ("best", None, "there is no arm 'best'"),
    ],
)
def test_an_arm_that_makes_no_sense_is_refused(
    name: str, alpha: float | None, says: str, setup: Setup
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        open_arm(Arm(name=name, alpha=alpha), setup)
