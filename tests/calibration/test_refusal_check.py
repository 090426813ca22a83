from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import Recipe
from sarguard.calibration.refusal_check import (
    CERTAIN,
    MIN_GAIN,
    RefusalLikelihood,
    measure_refusal,
    random_direction,
    with_refusal,
)
from sarguard.errors import NoRefusalError
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import SteeringBundle
from tests import tiny

RECIPE = Recipe(rank=2)
STEPS = 60


def found(
    *,
    bare: float = -3.0,
    harmless: float = -3.0,
    steered: float = -3.0,
    random: float = -3.0,
) -> RefusalLikelihood:
    return RefusalLikelihood(
        clips=3,
        alpha=0.2,
        bare=bare,
        harmless=harmless,
        steered=steered,
        random=random,
    )


@pytest.mark.parametrize(
    "has_one",
    [
        # Brought out by the vectors, beyond a push that hurts or helps.
        found(steered=-2.5, random=-3.1),
        found(steered=-2.2, random=-2.6),
        # It refuses by itself: nothing is left to gain, or the vectors do nothing.
        found(bare=-0.31, harmless=-2.0, steered=-0.17, random=-0.33),
        found(bare=-2.0, harmless=-2.5, steered=-2.0, random=-2.0),
        # It refuses everything it hears.
        found(bare=-0.05, harmless=-0.06, steered=-0.04, random=-0.05),
        # Little is left, and the vectors gain a good part of it.
        found(bare=-0.31, harmless=-0.35, steered=-0.17, random=-0.33),
    ],
)
def test_a_refusal_is_the_models_own_or_brought_out(has_one: RefusalLikelihood) -> None:
    has_one.check()
    has_one.check(early=True)


@pytest.mark.parametrize(
    "has_none",
    [
        found(steered=-2.9, random=-3.1),
        found(steered=-2.5, random=-2.6),
        found(bare=-3.0, harmless=-3.1),
        found(bare=-3.0, harmless=-2.0),
        found(bare=-0.31, harmless=-0.35, steered=-0.28, random=-0.31),
        found(steered=float("nan")),
        found(bare=-0.05, random=float("nan")),
    ],
)
def test_without_one_calibration_ends(has_none: RefusalLikelihood) -> None:
    with pytest.raises(NoRefusalError, match=r"alpha 0\.2 takes"):
        has_none.check()
    with pytest.raises(NoRefusalError):
        has_none.check(early=True)


def test_a_little_less_is_enough_at_first() -> None:
    for some in (found(steered=-2.78), found(harmless=-3.22), found(bare=-0.12)):
        some.check(early=True)
    with pytest.raises(NoRefusalError):
        found(steered=-2.78).check()


def test_a_tiny_random_model_has_no_refusal_which_shows_at_once() -> None:
    seen: list[int] = []
    with pytest.raises(NoRefusalError, match="instruction-tuned checkpoint"):
        calibrate(
            tiny.shared(),
            tiny.pairs(4),
            RECIPE,
            progress=lambda done, _total: seen.append(done),
        )
    assert seen == []


@pytest.fixture(scope="module")
def aligned() -> LoadedModel:
    """Return a tiny model that was taught to refuse harmful clips, and no others."""
    loaded = tiny.build(seed=4)
    loaded.model.requires_grad_(requires_grad=True).train()
    lessons = []
    for pair in tiny.pairs(4):
        for clip, said in ((pair.harmful, RECIPE.refusal), (pair.safe, "Of course.")):
            lessons.append(with_refusal(loaded, clip, replace(RECIPE, refusal=said)))
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        for inputs, length in lessons:
            logits = loaded.model(**inputs, use_cache=False).logits[0, length - 1 : -1]
            answer = inputs["input_ids"][0, length:]
            loss = torch.nn.functional.cross_entropy(logits, answer)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    loaded.model.requires_grad_(requires_grad=False).eval()
    return loaded


def test_a_model_that_refuses_by_itself_is_calibrated(aligned: LoadedModel) -> None:
    check = calibrate(aligned, tiny.pairs(4), RECIPE).card.refusal_check
    assert check is not None
    assert check.harmless is not None
    # By its gain alone it would be turned away: hardly any is left.
    assert check.steered - check.bare < MIN_GAIN
    assert check.bare > CERTAIN
    assert check.bare > check.harmless


def test_likelihoods_are_those_of_the_steered_model(
    tiny_bundle: SteeringBundle,
) -> None:
    loaded, vectors = tiny.shared(), tiny_bundle.vectors.ablated
    pairs = tiny.pairs(2)
    nothing = measure_refusal(
        loaded, torch.zeros_like(vectors), pairs, RECIPE, alpha=1.0
    )
    assert nothing.steered == pytest.approx(nothing.bare, abs=1e-6)
    some = measure_refusal(loaded, vectors, pairs, RECIPE, alpha=1.0)
    assert (some.bare, some.harmless) == (nothing.bare, nothing.harmless)
    assert some.harmless != some.bare
    assert some.steered != some.bare
    assert some.clips == 2


def test_a_random_direction_has_the_norms_and_repeats() -> None:
    vectors = torch.arange(12.0).reshape(3, 4)
    drawn = random_direction(vectors)
    assert torch.allclose(drawn.norm(dim=1), vectors.norm(dim=1))
    assert torch.equal(drawn, random_direction(vectors))
