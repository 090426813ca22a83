from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarguard.calibration.subspace import ablate, safe_basis
from sarguard.errors import (
    ConfigurationError,
    DegenerateDirectionError,
    InsufficientDataError,
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
