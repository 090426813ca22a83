"""A model, its processor, and what the guard has to know about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sarguard.models.layers import DecoderLayers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """Hold a model that can be guarded."""

    model: nn.Module
    processor: Any
    decoder: DecoderLayers
    sampling_rate: int
    """Samples a second that the feature extractor expects."""
    max_audio_seconds: float
    """Longest clip that reaches the model whole."""
    single_audio: bool
    """Whether the family takes exactly one clip a prompt."""
    name: str
    revision: str | None = None

    @property
    def device(self) -> torch.device:
        """Return the device that inputs are put on."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the model's floating-point weights."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())
