"""What the hooks read while a model answers: vectors and strengths on its devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sarguard.errors import ConfigurationError


class Pristine:
    """Keep a copy of what lies on the devices, to tell whether it was changed.

    A comparison on the device costs microseconds, so it is made at every step; the
    digest, which costs a copy to the CPU, at both ends of a request.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._copies = {
            device: torch.stack(found) for device, found in _by_device(tensors).items()
        }

    def differs(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether any of the tensors is not what it was."""
        found = {d: torch.stack(t) for d, t in _by_device(tensors).items()}
        return found.keys() != self._copies.keys() or not all(
            torch.equal(found[device], copy) for device, copy in self._copies.items()
        )


def place(vectors: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Return each layer's vector, float32, on the layer's device."""
    exact = vectors.detach().to(torch.float32)
    return tuple(
        row.to(next(layer.parameters()).device, copy=True).contiguous()
        for row, layer in zip(exact, layers, strict=True)
    )


def read_strengths(alpha: float | Sequence[float] | Tensor, rows: int) -> Tensor:
    """Return one strength a row, float32, shape (rows,).

    Raises:
        ConfigurationError: Their number is wrong, or one is not finite or not above 0.
    """
    given = torch.as_tensor(alpha, dtype=torch.float32).detach().cpu().reshape(-1)
    values = given.expand(rows).clone() if given.numel() == 1 else given
    if values.shape[0] != rows:
        raise ConfigurationError(
            f"{values.shape[0]} strengths for {rows} rows: give one, or one a row"
        )
    for value in values.tolist():
        if not (math.isfinite(value) and value > 0):
            raise ConfigurationError(
                f"alpha is {value}: it has to be finite and above 0, because nothing "
                "answers unsteered"
            )
    return values


def _by_device(tensors: Iterable[Tensor]) -> dict[torch.device, list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return found
