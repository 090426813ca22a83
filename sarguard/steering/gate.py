"""The gate: how much a request's own state looks like a harmful one's.

A linear score of the clean last-token states of the upper layers, fitted once by
`sarguard.calibration.gate_fit`. With w, c and s of each layer as described there,

    score(h) = mean over the layers read of  (w.h - c) / s

0 is undecided, 1 a typical harmful request, -1 a typical harmless one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sarguard.errors import ArtifactFormatError, ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """A linear score of last-token states; its tensors are float32 on the CPU."""

    directions: Tensor
    """w / s of each layer that is read, shape (n, D)."""
    offsets: Tensor
    """c / s of each layer that is read, shape (n,)."""
    first_layer: int
    """The layers read are this one and the n - 1 after it."""

    def __post_init__(self) -> None:
        read = self.directions.shape[0]
        if self.directions.dim() != 2 or tuple(self.offsets.shape) != (read,):
            raise ArtifactFormatError(
                f"a gate has directions {tuple(self.directions.shape)} and offsets "
                f"{tuple(self.offsets.shape)}: they have to be (n, D) and (n,)"
            )
        for name in ("directions", "offsets"):
            found: Tensor = getattr(self, name)
            if found.dtype != torch.float32 or not bool(torch.isfinite(found).all()):
                raise ArtifactFormatError(f"{name} of a gate has to be finite float32")

    def score(self, states: Tensor) -> Tensor:
        """Return each row's score: 1 typically harmful, -1 typically harmless.

        Args:
            states: Clean last-token states of every layer, shape (L, rows, D).

        Returns:
            Float32, shape (rows,), on the states' device.

        Raises:
            ConfigurationError: The states are those of another model.
        """
        read, width = self.directions.shape
        last = self.first_layer + read
        if states.dim() != 3 or states.shape[0] < last or states.shape[2] != width:
            raise ConfigurationError(
                f"states of shape {tuple(states.shape)} for a gate that reads layers "
                f"{self.first_layer} to {last - 1} of width {width}"
            )
        # float32 whatever the model's dtype: the score is a small difference of large
        # products, and bfloat16 has 8 significant bits.
        chosen = states[self.first_layer : last].float()
        directions = self.directions.to(states.device)
        found = torch.einsum("lrd,ld->lr", chosen, directions)
        return (found - self.offsets.to(states.device)[:, None]).mean(dim=0)
