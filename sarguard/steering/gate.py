"""The gate: how much a request looks like a harmful one, read from the model's states.

A request is read in several prompts, `ReadingKind`: what stands around a clip moves the
state of a whole conversation further than what the clip asks for, so that each clip and
each written turn is read alone as well. A linear probe scores the clean last-token
states of the upper layers. With w, c and s of each layer as `calibration.gate_fit` fits
them,

    raw(h) = mean over the layers read of  (w.h - c) / s

Speech and writing have a probe each. What harmless requests score depends on the kind
of reading, so each kind has a scale of its own, and a score means the same in all:

    score(h) = gain * raw(h) + shift

0 is undecided, 1 a typical harmful clip read alone, -1 a typical harmless one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from sarguard.errors import ArtifactFormatError, ConfigurationError
from sarguard.steering.dose import ReadingKind

READING_KINDS: tuple[ReadingKind, ...] = get_args(ReadingKind)
WRITTEN_KINDS: frozenset[ReadingKind] = frozenset(
    {"text", "text_window", "text_conversation"}
)
"""Kinds without sound, which the probe for writing scores."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearProbe:
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
                f"a probe has directions {tuple(self.directions.shape)} and offsets "
                f"{tuple(self.offsets.shape)}: they have to be (n, D) and (n,)"
            )
        for name in ("directions", "offsets"):
            found: Tensor = getattr(self, name)
            if found.dtype != torch.float32 or not bool(torch.isfinite(found).all()):
                raise ArtifactFormatError(f"{name} of a probe has to be finite float32")

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
                f"states of shape {tuple(states.shape)} for a probe that reads layers "
                f"{self.first_layer} to {last - 1} of width {width}"
            )
        # float32 whatever the model's dtype: the score is a small difference of large
        # products, and bfloat16 has 8 significant bits.
        chosen = states[self.first_layer : last].float()
        directions = self.directions.to(states.device)
        found = torch.einsum("lrd,ld->lr", chosen, directions)
        return (found - self.offsets.to(states.device)[:, None]).mean(dim=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingScale:
    """What makes the raw scores of one kind of reading comparable with the others'."""

    gain: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise ArtifactFormatError(
                f"the gain of a reading's scale is {self.gain}: it has to be finite "
                "and above 0, or a more harmful request would score lower"
            )
        if not math.isfinite(self.shift):
            raise ArtifactFormatError(
                f"the shift of a reading's scale is {self.shift}: it has to be finite"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """A probe for speech and one for writing, and a scale for each kind of reading."""

    spoken: LinearProbe
    written: LinearProbe
    scales: Mapping[ReadingKind, ReadingScale]
    """Of every kind that the model can be asked for."""

    def score(self, states: Tensor, kind: ReadingKind) -> Tensor:
        """Return each row's score, comparable over all kinds of readings.

        Args:
            states: Clean last-token states of every layer, shape (L, rows, D).
            kind: What was read.

        Returns:
            Float32, shape (rows,), on the states' device.

        Raises:
            ConfigurationError: The states are those of another model, or the gate
                was not calibrated for that kind of reading.
        """
        probe = self.written if kind in WRITTEN_KINDS else self.spoken
        scale = self.scales.get(kind)
        if scale is None:
            raise ConfigurationError(
                f"the gate was not calibrated for the reading {kind!r}: it knows "
                f"{', '.join(self.scales)}"
            )
        return probe.score(states) * scale.gain + scale.shift
