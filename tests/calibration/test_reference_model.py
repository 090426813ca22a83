"""Hold the package to the plain reimplementation on the reference model itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sarguard.calibration.recipe import Recipe
from sarguard.calibration.states import calibration_states
from sarguard.calibration.vectors import refusal_vectors
from sarguard.datasets import load_pairs
from sarguard.decoding import guarded_decode
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel, load_model
from sarguard.reference.assemble import ensure_reference
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.steerer import Steerer
from sarguard.types import Turn
from tests.calibration import plain

pytestmark = pytest.mark.reference

PAIRS = 6
RANK = 3
STEPS = 6
BUNDLE = Path(plain.__file__).parents[2] / "sarguard" / "reference" / "bundle"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(ensure_reference(progress=False), dtype=torch.float32)


@pytest.fixture(scope="module")
def exact(loaded: LoadedModel) -> LoadedModel:
    return load_model(loaded.name, dtype=torch.float64)


def test_vectors_logits_and_tokens_agree(
    loaded: LoadedModel, exact: LoadedModel
) -> None:
    pairs = load_pairs("calibration", sample_rate=loaded.sampling_rate)[:PAIRS]
    recipe = Recipe(rank=RANK)
    vectors = refusal_vectors(calibration_states(loaded, pairs, recipe), recipe)
    layers = exact.decoder.layers
    raw, _, ablated = plain.vectors(
        exact.model,
        layers,
        exact.processor,
        [(pair.harmful, pair.safe) for pair in pairs],
        rank=RANK,
        lam=1.0,
    )
    for found, expected in ((vectors.raw, raw), (vectors.ablated, ablated)):
        error = np.linalg.norm(found.numpy() - expected, axis=1)
        assert (error / np.linalg.norm(expected, axis=1)).max() < 1e-3

    clip, text = pairs[0].harmful, "Answer the caller."
    tokens, logits = plain.greedy(
        exact.model,
        layers,
        plain.prompt(exact.processor, clip, text),
        ablated,
        alpha=0.1,
        steps=STEPS,
    )
    inputs = build_inputs(loaded, [[Turn(role="user", text=text, audio=(clip,))]])
    with Steerer(loaded.decoder, vectors.ablated) as steerer:
        decoded = guarded_decode(
            loaded, steerer, inputs, alpha=0.1, max_new_tokens=STEPS
        )[0]
        length = inputs["input_ids"].shape[1]
        guard = steerer.guard(prompt_length=length, alpha=0.1, rows=1)
        with guard, torch.no_grad():
            first = loaded.model(**inputs).logits[0, -1].numpy()
    stop = loaded.tokenizer.eos_token_id
    expected_tokens = tokens[: tokens.index(stop)] if stop in tokens else tokens
    assert list(decoded.token_ids) == expected_tokens
    np.testing.assert_allclose(first, logits[0], atol=0.02)


def test_the_shipped_bundle_is_this_models(loaded: LoadedModel) -> None:
    SteeringBundle.load(BUNDLE).check(loaded)
