"""Hold the package to a plain reimplementation of the paper, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sarguard.calibration.recipe import REFERENCE_RECIPE, Recipe
from sarguard.calibration.states import calibration_states
from sarguard.calibration.vectors import refusal_vectors, safe_basis
from sarguard.decoding import guarded_decode
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import passing_cache, returned_cache
from sarguard.steering.steerer import Steerer
from sarguard.steering.vectors import RefusalVectors
from sarguard.types import Turn
from tests import tiny
from tests.calibration import plain

RANK = 3
PAIRS = 6
STEPS = 8


@dataclass(frozen=True)
class Case:
    loaded: LoadedModel
    vectors: RefusalVectors
    projectors: NDArray[np.float64]
    plain_raw: NDArray[np.float64]
    plain_projectors: NDArray[np.float64]
    plain_ablated: NDArray[np.float64]


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def case(request: pytest.FixtureRequest) -> Case:
    loaded = tiny.build(request.param)
    loaded.model.double()
    clips = tiny.pairs(PAIRS)
    states = calibration_states(loaded, clips)
    bases = [safe_basis(layer, RANK).vectors for layer in states.safe.unbind(1)]
    raw, projectors, ablated = plain.vectors(
        loaded.model,
        loaded.decoder.layers,
        loaded.processor,
        [(pair.harmful, pair.safe) for pair in clips],
        rank=RANK,
        lam=1.0,
    )
    return Case(
        loaded=loaded,
        vectors=refusal_vectors(states, Recipe(rank=RANK)),
        projectors=np.array([(basis @ basis.T).numpy() for basis in bases]),
        plain_raw=raw,
        plain_projectors=projectors,
        plain_ablated=ablated,
    )


def largest_error(found: torch.Tensor, expected: NDArray[np.float64]) -> float:
    """Return the largest error of a row, relative to that row's norm."""
    difference = np.linalg.norm(found.double().numpy() - expected, axis=-1)
    return float((difference / np.linalg.norm(expected, axis=-1)).max())


def test_reference_texts_are_the_papers() -> None:
    texts = (REFERENCE_RECIPE.instruction, REFERENCE_RECIPE.refusal)
    assert texts == (plain.INSTRUCTION, plain.REFUSAL)


def test_raw_vectors_agree(case: Case) -> None:
    assert largest_error(case.vectors.raw, case.plain_raw) < 1e-5


def test_safe_bases_span_the_same_space(case: Case) -> None:
    # Columns may differ in sign, and where variances tie; projectors may not.
    np.testing.assert_allclose(case.projectors, case.plain_projectors, atol=1e-5)


def test_ablated_vectors_agree(case: Case) -> None:
    assert largest_error(case.vectors.ablated, case.plain_ablated) < 1e-5


def test_ablation_is_partial_when_asked(case: Case) -> None:
    states = calibration_states(case.loaded, tiny.pairs(PAIRS))
    half = refusal_vectors(states, Recipe(rank=RANK, lam=0.5)).ablated
    expected = (case.plain_raw + case.plain_ablated) / 2
    assert largest_error(half, expected) < 1e-5


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_steered_logits_and_greedy_tokens_agree(case: Case, alpha: float) -> None:
    clip, text = tiny.clip(0.8, pitch=333), "What do you hear?"
    tokens, logits = plain.greedy(
        case.loaded.model,
        case.loaded.decoder.layers,
        plain.prompt(case.loaded.processor, clip, text),
        case.plain_ablated,
        alpha=alpha,
        steps=STEPS,
    )
    bare, _ = plain.greedy(
        case.loaded.model,
        case.loaded.decoder.layers,
        plain.prompt(case.loaded.processor, clip, text),
        np.zeros_like(case.plain_ablated),
        alpha=alpha,
        steps=STEPS,
    )
    inputs = build_inputs(case.loaded, [[Turn(role="user", text=text, audio=(clip,))]])
    with Steerer(case.loaded.decoder, case.vectors.ablated) as steerer:
        found = steered_logits(case.loaded, steerer, inputs, tokens, alpha=alpha)
        decoded = guarded_decode(
            case.loaded, steerer, inputs, alpha=alpha, max_new_tokens=STEPS
        )[0]
    assert tokens != bare
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)
    assert list(decoded.token_ids) == until_stop(case.loaded, tokens)


def steered_logits(
    loaded: LoadedModel,
    steerer: Steerer,
    inputs: dict[str, torch.Tensor],
    tokens: list[int],
    *,
    alpha: float,
) -> NDArray[np.float64]:
    """Return the logits before each of some forced tokens."""
    found = []
    mask, step = inputs["attention_mask"], dict(inputs)
    length = mask.shape[1]
    guard = steerer.guard(prompt_length=length, alpha=alpha, rows=1)
    with guard as receipt, torch.no_grad():
        for token in tokens:
            output = loaded.model(**step, use_cache=True)
            found.append(output.logits[0, -1].numpy())
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            step = {
                "input_ids": torch.tensor([[token]]),
                "attention_mask": mask,
                **passing_cache(returned_cache(output)),
            }
    steerer.verify(receipt, output_tokens=len(tokens))
    return np.array(found)


def until_stop(loaded: LoadedModel, tokens: list[int]) -> list[int]:
    stop = loaded.tokenizer.eos_token_id
    return tokens[: tokens.index(stop)] if stop in tokens else tokens
