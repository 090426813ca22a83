"""Where a model's text-decoder layers are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecoderLayers:
    """Point at the layers of a model's text decoder."""

    path: str
    """Dotted path of the layer list, for people; bundles store indices only."""
    layers: tuple[nn.Module, ...]
    backbone: nn.Module
    """Cheapest module that runs every layer when called with built inputs."""
    owner: nn.Module
    """Module whose forward runs the layers, with the cache as an argument."""
    root: nn.Module
    """The whole model."""
    hidden_size: int

    def __len__(self) -> int:
        return len(self.layers)
