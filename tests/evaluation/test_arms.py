from __future__ import annotations

import pytest
import torch

from sarguard.errors import ConfigurationError, SteeringError
from sarguard.evaluation.answering import Question, answer_batch, make_batches
from sarguard.evaluation.arms import (
    Arm,
    ArmName,
    UnguardedForMeasurement,
    open_arm,
    plan_arms,
    random_direction,
)
from sarguard.models.inputs import build_inputs
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.steerer import Steerer
from tests import tiny

TOKENS = 8


def questions(*seconds: float) -> list[Question]:
    return [
        Question(pair=f"p{i}", kind="harmful", audio=tiny.clip(s, pitch=150 + 40 * i))
        for i, s in enumerate(seconds)
    ]


def ask(steerer: Steerer, asked: list[Question], *, size: int = 8) -> dict[int, str]:
    loaded = tiny.shared()
    found: dict[int, str] = {}
    with steerer:
        for batch in make_batches(loaded, asked, size=size):
            answers = answer_batch(
                loaded, steerer, batch, alpha=0.3, max_new_tokens=TOKENS
            )
            found |= dict(zip(batch.places, answers, strict=True))
    return found


def plain_answer(question: Question) -> str:
    """Ask transformers itself, with nothing of ours on the model."""
    loaded = tiny.shared()
    from sarguard.conversation import Turn

    inputs = build_inputs(loaded, [[Turn(role="user", audio=(question.audio,))]])
    with torch.no_grad():
        output = loaded.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    tokens = output[0, inputs["input_ids"].shape[1] :]
    text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    return str(text).strip()


def test_the_bare_arm_is_transformers_own_answer() -> None:
    asked = questions(0.5, 0.9)
    found = ask(UnguardedForMeasurement(tiny.shared().decoder), asked)
    assert [found[0], found[1]] == [plain_answer(q) for q in asked]


def test_the_bare_arm_leaves_the_model_as_it_was() -> None:
    asked = questions(0.5)
    before = plain_answer(asked[0])
    ask(UnguardedForMeasurement(tiny.shared().decoder), asked)
    assert plain_answer(asked[0]) == before


def test_the_bare_model_answers_only_inside_its_block() -> None:
    loaded = tiny.shared()
    (batch,) = make_batches(loaded, questions(0.5), size=1)
    with (
        UnguardedForMeasurement(loaded.decoder),
        pytest.raises(SteeringError, match="called directly"),
    ):
        loaded.model(**batch.inputs)


def test_steered_arms_differ_from_bare_and_from_each_other(
    tiny_bundle: SteeringBundle,
) -> None:
    asked = questions(0.5, 0.7, 0.9)
    loaded = tiny.shared()
    arms = [Arm(name=name, alpha=float(name != "bare")) for name in ArmName]
    found = [
        tuple(ask(open_arm(arm, loaded.decoder, tiny_bundle.vectors), asked).items())
        for arm in arms
    ]
    assert len(set(found)) == len(arms)


def test_a_random_direction_has_the_norms_of_the_vector_and_no_other_likeness() -> None:
    ablated = torch.randn(6, 256, generator=torch.Generator().manual_seed(1)) * 3
    drawn = random_direction(ablated)
    torch.testing.assert_close(drawn.norm(dim=-1), ablated.norm(dim=-1))
    cosines = torch.cosine_similarity(drawn, ablated, dim=-1).abs()
    assert float(cosines.max()) < 0.3
    assert torch.equal(drawn, random_direction(ablated))
    assert not torch.equal(drawn, random_direction(ablated, seed=1))


def test_the_grid_has_one_bare_arm_and_every_dose_of_the_others() -> None:
    found = [str(arm) for arm in plan_arms([0.2, 0.1, 0.2])]
    assert found == [
        "bare",
        *("raw 0.1", "raw 0.2", "ablated 0.1", "ablated 0.2"),
        *("random 0.1", "random 0.2"),
    ]
    assert plan_arms([0.1], [ArmName.RAW]) == (Arm(name=ArmName.RAW, alpha=0.1),)


@pytest.mark.parametrize(("name", "alpha"), [("bare", 0.1), ("ablated", 0.0)])
def test_an_arm_that_makes_no_sense_is_refused(name: str, alpha: float) -> None:
    with pytest.raises(ConfigurationError, match="alpha 0"):
        Arm(name=ArmName(name), alpha=alpha)
