"""The safe subspace and its removal from a direction (SARSteer, arXiv 2510.17633).

With S (N, D) the states of one layer on harmless requests and mu their mean,

    U = first k left singular vectors of (S - mu)^T          (D, k)
    r = v - lambda U U^T v                                    (D,)

U comes from the eigenvectors of the N x N Gram matrix of S - mu, which is exact;
randomised and incremental PCA with few components are tens of degrees off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sarguard.errors import (
    ConfigurationError,
    DegenerateDirectionError,
    InsufficientDataError,
)

_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SafeBasis:
    """Hold the directions in which harmless requests differ most."""

    vectors: Tensor
    """Orthonormal columns, float64, shape (D, k), strongest first."""
    explained_variance: Tensor
    """Share of the states' variance along each column, shape (k,)."""


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
    if rank > min(count - 1, width):
        raise InsufficientDataError(
            f"{count} safe states of width {width} cannot span {rank} directions: give "
            f"at least {rank + 1} pairs, or lower the rank to {min(count - 1, width)}"
        )
    if not bool(torch.isfinite(states).all()):
        raise DegenerateDirectionError("safe states hold NaN or infinity: check dtype")
    centred = states.double() - states.double().mean(dim=0)
    values, left = torch.linalg.eigh(centred @ centred.T)
    values, left = values.flip(0)[:rank], left.flip(1)[:, :rank]
    total = centred.square().sum()
    if not bool(values[-1] > _RANK_TOLERANCE * total):
        raise DegenerateDirectionError(
            f"the safe states vary in fewer than {rank} directions (variance left in "
            f"the last one: {float(values[-1]):.3g} of {float(total):.3g}): are clips "
            "repeated? Use different clips, or lower the rank"
        )
    # One QR pass removes the rounding that small eigenvalues leave; signs are free.
    basis, _ = torch.linalg.qr(centred.T @ left / values.sqrt())
    return SafeBasis(vectors=basis, explained_variance=values / total)


def ablate(direction: Tensor, basis: Tensor, strength: float = 1.0) -> Tensor:
    """Return a direction without its part in a subspace.

    Args:
        direction: Shape (D,).
        basis: Orthonormal columns, shape (D, k).
        strength: lambda; 1 removes the part whole, 0 leaves the direction alone.
    """
    exact, columns = direction.double(), basis.double()
    return exact - strength * (columns @ (columns.T @ exact))
