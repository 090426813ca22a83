"""The arms of a measurement: one model, guarded in different ways or not at all.

`raw` and `ablated` are the two vectors of SARSteer, without and with the safe-space
ablation. `random` is a direction of the ablated vector's norm in each layer: what it
does, any push does. `bare` is the model as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from sarguard.errors import ConfigurationError
from sarguard.models.layers import DecoderLayers
from sarguard.steering.receipt import Receipt
from sarguard.steering.steerer import Steerer
from sarguard.steering.vectors import RefusalVectors

RANDOM_SEED = 2510


class ArmName(str, Enum):
    """Name what is added to the model's states."""

    BARE = "bare"
    RAW = "raw"
    ABLATED = "ablated"
    RANDOM = "random"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Hold one arm: what is added, and how much of it."""

    name: ArmName
    alpha: float
    """Dose; 0 for the bare model alone."""

    def __post_init__(self) -> None:
        if (self.name is ArmName.BARE) != (self.alpha == 0):
            raise ConfigurationError(
                f"arm {self.name} with alpha {self.alpha:g}: the bare arm has alpha 0, "
                "every other arm more"
            )

    def __str__(self) -> str:
        if self.name is ArmName.BARE:
            return str(self.name)
        return f"{self.name} {self.alpha:g}"


class UnguardedForMeasurement(Steerer):
    """Let the bare model answer, to measure what a guard changes.

    It is the one way to an unsteered answer, and takes the way of the steered ones:
    same inputs, same decoding, nothing added and so nothing to verify.
    """

    def __init__(self, decoder: DecoderLayers) -> None:
        """Prepare for a decoder."""
        super().__init__(decoder, torch.zeros(len(decoder), decoder.hidden_size))

    @contextmanager
    def guard(
        self, *, prompt_length: int, alpha: float | Sequence[float] | Tensor, rows: int
    ) -> Iterator[Receipt]:
        """Let every forward pass inside the block run as it is."""
        bare = Receipt(
            prompt_length=prompt_length,
            alpha=(0.0,) * rows,
            layers=len(self._decoder),
        )
        with self.reading():
            yield bare
        bare.closed = True

    def check(self, receipt: Receipt, *, output_tokens: int) -> list[bool]:
        """Accept what nothing was promised for."""
        return [True] * len(receipt.alpha)

    def verify(self, receipt: Receipt, *, output_tokens: int) -> None:
        """Accept what nothing was promised for."""


def plan_arms(
    alphas: Sequence[float], names: Sequence[ArmName] = tuple(ArmName)
) -> tuple[Arm, ...]:
    """Return the arms of a grid: bare once, every other name at every dose."""
    bare = [Arm(name=ArmName.BARE, alpha=0.0)] if ArmName.BARE in names else []
    steered = [
        Arm(name=name, alpha=alpha)
        for name in names
        if name is not ArmName.BARE
        for alpha in sorted(set(alphas))
    ]
    return (*bare, *steered)


def open_arm(arm: Arm, decoder: DecoderLayers, vectors: RefusalVectors) -> Steerer:
    """Return the steerer of an arm, not yet attached."""
    if arm.name is ArmName.BARE:
        return UnguardedForMeasurement(decoder)
    return Steerer(decoder, _vectors(arm.name, vectors))


def random_direction(ablated: Tensor, *, seed: int = RANDOM_SEED) -> Tensor:
    """Return a Gaussian direction a layer with the norms of `ablated`, (L, D)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(ablated.shape, generator=generator, dtype=torch.float64)
    norms = ablated.double().norm(dim=-1, keepdim=True)
    direction: Tensor = drawn / drawn.norm(dim=-1, keepdim=True) * norms
    return direction.float()


def _vectors(name: ArmName, vectors: RefusalVectors) -> Tensor:
    if name is ArmName.RAW:
        return vectors.raw
    if name is ArmName.RANDOM:
        return random_direction(vectors.ablated)
    return vectors.ablated
