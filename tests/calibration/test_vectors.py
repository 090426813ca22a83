from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import REFERENCE_RECIPE, AudioPair, Pair, Recipe
from sarguard.calibration.states import CalibrationStates, calibration_states
from sarguard.calibration.vectors import ablate, refusal_vectors, safe_basis
from sarguard.errors import (
    ConfigurationError,
    DegenerateDirectionError,
    InsufficientDataError,
    SteeringNotAppliedError,
)
from sarguard.models import families
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.residual import last_states
from sarguard.steering.steerer import Steerer
from tests import tiny
from tests.contract.families import fresh


def random_states(count: int = 6, layers: int = 2, width: int = 8) -> CalibrationStates:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(count, layers, width, generator=generator) for _ in range(3)]
    return CalibrationStates(refusing=made[0], harmful=made[1], safe=made[2])


def calibrated(pairs: Sequence[Pair], recipe: Recipe) -> SteeringBundle:
    return calibrate(tiny.shared(), pairs, recipe, needs_refusal=False)


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_a_shared_prefix_changes_nothing(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny.build(family)
    shared = calibration_states(loaded, tiny.pairs(2))
    passes: list[int] = []
    loaded.decoder.owner.register_forward_pre_hook(
        lambda _m, _a, kwargs: passes.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    calibration_states(loaded, tiny.pairs(1))
    monkeypatch.setattr(families, "FAMILIES", {})
    plain = calibration_states(loaded, tiny.pairs(2))
    # Two prefixes with three and two short endings, then five whole prompts a pair.
    assert len(passes) == 4 + 3 + 2 * 5
    # A prefix and an ending make a whole prompt: nothing of a clip runs twice.
    assert [passes[0] + ending for ending in passes[1:4]] == passes[7:10]
    for name in ("refusing", "harmful", "safe"):
        torch.testing.assert_close(
            getattr(shared, name), getattr(plain, name), atol=1e-4, rtol=1e-4
        )


def test_the_sentence_follows_the_instruction_without_a_space() -> None:
    loaded = tiny.build()
    ends: list[list[int]] = []
    loaded.model.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: ends.append(kwargs["input_ids"][0].tolist()),
        with_kwargs=True,
    )
    calibration_states(loaded, tiny.pairs(1))
    prompt = loaded.tokenizer.decode(ends[0] + ends[1])
    text = REFERENCE_RECIPE.instruction + REFERENCE_RECIPE.refusal
    assert prompt.endswith(f"{text}<|im_end|>\n<|im_start|>assistant\n")


def test_progress_counts_clips() -> None:
    seen: list[tuple[int, int]] = []
    calibration_states(
        tiny.shared(),
        tiny.pairs(3),
        benign=[tiny.clip(0.4)],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("family", ["qwen2_audio", "gemma3n"])
def test_a_batch_changes_nothing(family: str) -> None:
    loaded = fresh(family)
    rows: list[int] = []
    loaded.decoder.owner.register_forward_pre_hook(
        lambda _m, _a, kwargs: rows.append(kwargs["inputs_embeds"].shape[0]),
        with_kwargs=True,
    )
    alone = calibration_states(loaded, tiny.pairs(5), batch_size=1)
    assert set(rows) == {1}
    rows.clear()
    together = calibration_states(loaded, tiny.pairs(5), batch_size=3)
    # Clips that must not be padded are read one by one.
    assert set(rows) == ({1} if family == "gemma3n" else {3, 2})
    for name in ("refusing", "harmful", "safe"):
        torch.testing.assert_close(
            getattr(together, name), getattr(alone, name), atol=1e-4, rtol=1e-4
        )


def test_calibration_leaves_no_hooks_and_repeats_itself() -> None:
    first = calibrated(tiny.pairs(4), Recipe(rank=2))
    second = calibrated(tiny.pairs(4), Recipe(rank=2))
    assert torch.equal(first.vectors.ablated, second.vectors.ablated)
    assert torch.equal(first.gate.spoken.directions, second.gate.spoken.directions)
    assert first.gate.scales == second.gate.scales
    assert first.card.gate == second.card.gate
    assert not any(layer._forward_hooks for layer in tiny.shared().decoder.layers)


def test_reading_states_frees_their_prompt() -> None:
    loaded = tiny.shared()
    states = last_states(loaded.decoder, {"input_ids": torch.arange(50)[None]})
    assert states.shape == (3, 1, 64)
    assert states.untyped_storage().nbytes() == states.numel() * 4


def test_a_guarded_model_is_not_calibrated_by_accident() -> None:
    loaded = tiny.build()
    vectors = torch.ones(len(loaded.decoder), loaded.decoder.hidden_size)
    with Steerer(loaded.decoder, vectors), pytest.raises(SteeringNotAppliedError):
        calibrate(loaded, tiny.pairs(3), Recipe(rank=1))


@pytest.mark.parametrize(("count", "rank"), [(0, 1), (1, 1), (3, 3), (10, 10)])
def test_too_few_pairs_are_named_before_any_work(count: int, rank: int) -> None:
    with pytest.raises(InsufficientDataError, match=f"{count} pair.*{rank + 1} pairs"):
        calibrate(tiny.shared(), tiny.pairs(count), Recipe(rank=rank))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"rank": 0}, "rank is 0"), ({"lam": -0.1}, "lam is"), ({"lam": 1.5}, "lam is")],
)
def test_settings_are_checked(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Recipe(**values)  # type: ignore[arg-type]


def test_an_empty_refusal_has_no_direction() -> None:
    with pytest.raises(DegenerateDirectionError, match="norm 0"):
        calibrated(tiny.pairs(3), Recipe(rank=1, refusal=""))


def test_equal_safe_clips_have_no_directions() -> None:
    clip = tiny.clip(0.5)
    pairs = [AudioPair(harmful=pair.harmful, safe=clip) for pair in tiny.pairs(4)]
    with pytest.raises(DegenerateDirectionError, match="fewer than 2 directions"):
        calibrated(pairs, Recipe(rank=2))


def test_states_that_overflow_are_named() -> None:
    states = random_states()
    states.refusing[0, 1, 0] = float("inf")
    with pytest.raises(DegenerateDirectionError, match="layer 1"):
        refusal_vectors(states, Recipe(rank=2))


def test_a_direction_inside_the_safe_space_is_degenerate() -> None:
    states = random_states(layers=1)
    refusing = states.harmful + (states.safe[:1] - states.safe[1:2])
    inside = CalibrationStates(
        refusing=refusing, harmful=states.harmful, safe=states.safe
    )
    with pytest.raises(DegenerateDirectionError, match="ablated vector of layer 0"):
        refusal_vectors(inside, Recipe(rank=5))


def test_means_do_not_drown_in_a_large_offset() -> None:
    states = random_states(count=40)
    offset = 1e4
    shifted = CalibrationStates(
        refusing=states.refusing + offset,
        harmful=states.harmful + offset,
        safe=states.safe + offset,
    )
    plain = refusal_vectors(states, Recipe(rank=3)).ablated
    torch.testing.assert_close(
        refusal_vectors(shifted, Recipe(rank=3)).ablated, plain, atol=5e-3, rtol=0
    )


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "count": st.integers(4, 30),
        "width": st.integers(4, 40),
        "rank": st.integers(1, 3),
        "scale": st.sampled_from([1e-3, 1.0, 1e4]),
    }
)


def draw(case: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor, int]:
    generator = torch.Generator().manual_seed(int(case["seed"]))
    count, width = int(case["count"]), int(case["width"])
    states = torch.randn(count, width, generator=generator) * case["scale"]
    direction = torch.randn(width, generator=generator) * case["scale"]
    return states + 3 * case["scale"], direction, int(case["rank"])


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_the_projector_is_idempotent_and_symmetric(case: dict[str, float]) -> None:
    states, _, rank = draw(case)
    basis = safe_basis(states, rank).vectors
    projector = basis @ basis.T
    torch.testing.assert_close(projector @ projector, projector, atol=1e-9, rtol=0)
    identity = torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(basis.T @ basis, identity, atol=1e-9, rtol=0)


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_the_ablated_vector_is_orthogonal_to_the_basis(case: dict[str, float]) -> None:
    states, direction, rank = draw(case)
    basis = safe_basis(states, rank).vectors
    left = basis.T @ ablate(direction, basis)
    assert float(left.abs().max()) <= 1e-9 * float(direction.norm())


@settings(max_examples=30, deadline=None)
@given(case=cases)
def test_no_ablation_leaves_the_direction_alone(case: dict[str, float]) -> None:
    states, direction, rank = draw(case)
    basis = safe_basis(states, rank).vectors
    assert torch.equal(ablate(direction, basis, 0.0), direction.double())


@settings(max_examples=30, deadline=None)
@given(case=cases)
def test_ablating_twice_is_ablating_once(case: dict[str, float]) -> None:
    states, direction, rank = draw(case)
    basis = safe_basis(states, rank).vectors
    once = ablate(direction, basis)
    torch.testing.assert_close(ablate(once, basis), once)


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_the_basis_spans_what_an_svd_gives(case: dict[str, float]) -> None:
    states, _, rank = draw(case)
    found = safe_basis(states, rank)
    centred = states.double() - states.double().mean(0)
    left, values, _ = torch.linalg.svd(centred.T, full_matrices=False)
    overlap = found.vectors.T @ left[:, :rank]
    # Random spectra have no ties, so columns agree one by one, up to sign.
    ones = torch.ones(rank, dtype=torch.float64)
    torch.testing.assert_close(overlap.diagonal().abs(), ones, atol=1e-6, rtol=0)
    shares = values[:rank].square() / values.square().sum()
    torch.testing.assert_close(found.explained_variance, shares)


def test_the_mean_is_no_direction() -> None:
    states = torch.zeros(5, 4)
    states[:, 0] = 100.0
    states[:, 1] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    basis = safe_basis(states, 1).vectors
    assert basis[:, 0].abs().tolist() == pytest.approx([0, 1, 0, 0])


@pytest.mark.parametrize(("count", "width", "rank"), [(3, 8, 3), (10, 2, 3), (1, 8, 1)])
def test_too_few_states_are_named(count: int, width: int, rank: int) -> None:
    with pytest.raises(InsufficientDataError, match=f"{count} safe states"):
        safe_basis(torch.randn(count, width), rank)


def test_repeated_states_are_degenerate() -> None:
    with pytest.raises(DegenerateDirectionError, match="repeated"):
        safe_basis(torch.randn(2, 8).repeat(5, 1), 3)


def test_states_must_be_finite() -> None:
    states = torch.randn(5, 8)
    states[2, 3] = float("nan")
    with pytest.raises(DegenerateDirectionError, match="NaN"):
        safe_basis(states, 2)


def test_a_rank_is_positive() -> None:
    with pytest.raises(ConfigurationError, match="rank is 0"):
        safe_basis(torch.randn(5, 8), 0)
