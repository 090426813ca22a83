"""Computing a model's refusal vectors (SARSteer, arXiv 2510.17633).

For pairs of a harmful clip a_h and a matched harmless clip a_s, an instruction t and a
refusal sentence p, with h_l(a, t) the state of layer l at the last prompt token:

    v_l = mean_i [ h_l(a_h_i, t + p) - h_l(a_h_i, t) ]                   (D,)
    U_l = first k left singular vectors of (S_l - mu_l)^T                (D, k)
    r_l = v_l - lambda U_l U_l^T v_l                                     (D,)

where the rows of S_l (N, D) are h_l(a_s_i, t), and mu_l is their mean. U_l comes from
the eigenvectors of the N x N Gram matrix of S_l - mu_l, which is exact; randomised and
incremental PCA with few components are tens of degrees off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sarguard.calibration.recipe import REFERENCE_RECIPE, Recipe
from sarguard.calibration.states import CalibrationStates
from sarguard.errors import (
    ConfigurationError,
    DegenerateDirectionError,
    InsufficientDataError,
)
from sarguard.steering.vectors import RefusalVectors

# As a share of the total variance, of which rounding in float64 leaves about 1e-16 in a
# direction that is not there.
_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SafeBasis:
    """The directions in which the states of harmless requests differ most."""

    vectors: Tensor
    """Orthonormal columns, float64, shape (D, k), strongest first."""
    explained_variance: Tensor
    """Share of the states' variance along each column, shape (k,)."""


def refusal_vectors(
    states: CalibrationStates, recipe: Recipe = REFERENCE_RECIPE
) -> RefusalVectors:
    """Compute refusal vectors from calibration's states, in float64.

    Raises:
        InsufficientDataError: There are fewer than `rank` + 1 pairs.
        DegenerateDirectionError: A vector vanished or is not finite.
    """
    check_pair_count(states.harmful.shape[0], recipe)
    # The mean of small differences of large states: float32 would lose its digits.
    raw = (states.refusing.double() - states.harmful.double()).mean(dim=0)
    _check_directions("refusal vector", raw, min_norm=torch.zeros(len(raw)))
    bases = [safe_basis(layer, recipe.rank) for layer in states.safe.unbind(dim=1)]
    ablated = torch.stack(
        [ablate(v, b.vectors, recipe.lam) for v, b in zip(raw, bases, strict=True)]
    )
    # What rounding leaves of a vector that lies in the safe subspace is noise.
    _check_directions("ablated vector", ablated, min_norm=1e-6 * raw.norm(dim=-1))
    return RefusalVectors(
        raw=raw.float(),
        ablated=ablated.float(),
        explained_variance=torch.stack([b.explained_variance for b in bases]).float(),
        state_norms=states.harmful.norm(dim=-1).mean(dim=0).float(),
    )


def check_pair_count(count: int, recipe: Recipe) -> None:
    """Raise InsufficientDataError where pairs are too few for a recipe's rank."""
    if count < recipe.rank + 1:
        raise InsufficientDataError(
            f"{count} pair(s) for rank {recipe.rank}: give at least {recipe.rank + 1} "
            "pairs, or lower the rank"
        )


def safe_basis(states: Tensor, rank: int) -> SafeBasis:
    """Return the leading principal directions of a layer's safe states.

    Args:
        states: One state a row, shape (N, D).
        rank: How many directions, k.

    Raises:
        ConfigurationError: `rank` is not positive.
        InsufficientDataError: N states span fewer than k directions.
        DegenerateDirectionError: The states vary in fewer than k directions, or are
            not finite.
    """
    count, width = states.shape
    if rank < 1:
        raise ConfigurationError(f"rank is {rank}: it has to be 1 or more")
    # Centring takes one dimension from what N states span.
    if rank > min(count - 1, width):
        raise InsufficientDataError(
            f"{count} safe states of width {width} cannot span {rank} directions: give "
            f"at least {rank + 1} pairs, or lower the rank to {min(count - 1, width)}"
        )
    if not bool(torch.isfinite(states).all()):
        raise DegenerateDirectionError("safe states hold NaN or infinity: check dtype")
    centred = states.double() - states.double().mean(dim=0)
    values, left = torch.linalg.eigh(centred @ centred.T)
    # eigh sorts its eigenvalues upwards.
    values, left = values.flip(0)[:rank], left.flip(1)[:, :rank]
    total = centred.square().sum()
    if not bool(values[-1] > _RANK_TOLERANCE * total):
        raise DegenerateDirectionError(
            f"the safe states vary in fewer than {rank} directions (variance left in "
            f"the last one: {float(values[-1]):.3g} of {float(total):.3g}): are clips "
            "repeated? Use different clips, or lower the rank"
        )
    # One QR pass removes the rounding that small eigenvalues leave; signs are free.
    # u_j = (S - mu)^T x_j / sigma_j, with sigma_j^2 and x_j of the Gram matrix.
    basis, _ = torch.linalg.qr(centred.T @ left / values.sqrt())
    return SafeBasis(vectors=basis, explained_variance=values / total)


def ablate(direction: Tensor, basis: Tensor, lam: float = 1.0) -> Tensor:
    """Return a direction without its part in a subspace, float64, shape (D,).

    Args:
        direction: Shape (D,).
        basis: Orthonormal columns, shape (D, k).
        lam: lambda; 1 removes the part whole, 0 leaves the direction alone.
    """
    exact, columns = direction.double(), basis.double()
    return exact - lam * (columns @ (columns.T @ exact))


def _check_directions(what: str, directions: Tensor, *, min_norm: Tensor) -> None:
    norms = directions.norm(dim=-1)
    for layer, (norm, bound) in enumerate(zip(norms, min_norm, strict=True)):
        if not bool(torch.isfinite(norm)) or bool(norm <= bound):
            raise DegenerateDirectionError(
                f"the {what} of layer {layer} has norm {float(norm):.3g}: check that "
                "the refusal sentence is not empty, that the clips differ, and that "
                "the model's dtype does not overflow"
            )
