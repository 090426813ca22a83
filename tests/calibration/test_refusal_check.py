from __future__ import annotations

import pytest
import torch

from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import Recipe
from sarguard.calibration.refusal_check import (
    RefusalGain,
    measure_refusal,
    random_direction,
)
from sarguard.errors import NoRefusalError
from sarguard.steering.bundle import SteeringBundle
from tests import tiny

RECIPE = Recipe(rank=2)


def gain(steered: float, random: float) -> RefusalGain:
    return RefusalGain(clips=3, alpha=0.2, bare=-3.0, steered=steered, random=random)


def test_a_vector_has_to_do_more_than_a_random_push() -> None:
    gain(-2.5, -3.1).check()
    gain(-2.2, -2.6).check()
    for found in (gain(-2.9, -3.1), gain(-2.5, -2.6), gain(float("nan"), -3.0)):
        with pytest.raises(NoRefusalError, match=r"alpha 0\.2 takes"):
            found.check()


def test_a_tiny_random_model_has_no_refusal() -> None:
    with pytest.raises(NoRefusalError, match="instruction-tuned checkpoint"):
        calibrate(tiny.shared(), tiny.pairs(4), RECIPE)


def test_likelihoods_are_those_of_the_steered_model(
    tiny_bundle: SteeringBundle,
) -> None:
    loaded, vectors = tiny.shared(), tiny_bundle.vectors.ablated
    clips = [pair.harmful for pair in tiny.pairs(2)]
    nothing = measure_refusal(
        loaded, torch.zeros_like(vectors), clips, RECIPE, alpha=1.0
    )
    assert nothing.steered == pytest.approx(nothing.bare, abs=1e-6)
    some = measure_refusal(loaded, vectors, clips, RECIPE, alpha=1.0)
    assert some.bare == nothing.bare
    assert some.steered != some.bare
    assert some.clips == 2


def test_a_random_direction_has_the_norms_and_repeats() -> None:
    vectors = torch.arange(12.0).reshape(3, 4)
    drawn = random_direction(vectors)
    assert torch.allclose(drawn.norm(dim=1), vectors.norm(dim=1))
    assert torch.equal(drawn, random_direction(vectors))
