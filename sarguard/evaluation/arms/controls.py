"""Calibrating again, for arms that need more than the bundle holds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sarguard.calibration.recipe import AudioPair, Pair, Recipe
from sarguard.calibration.states import CalibrationStates, calibration_states
from sarguard.calibration.vectors import refusal_vectors
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.steering.residual import last_states
from sarguard.steering.vectors import RefusalVectors
from sarguard.types import Turn

Samples: TypeAlias = "NDArray[np.float32]"

SHUFFLE_SEED = 633
SHUFFLED_PAIRS = 100


def swap_halves(pairs: Sequence[Pair], *, seed: int = SHUFFLE_SEED) -> list[AudioPair]:
    """Return the pairs, the two halves of about every second one swapped."""
    draw = random.Random(seed)
    return [
        AudioPair(harmful=pair.safe, safe=pair.harmful)
        if draw.random() < 0.5
        else AudioPair(harmful=pair.harmful, safe=pair.safe)
        for pair in pairs
    ]


class Recalibration:
    """Other calibrations of a model, each done once and only when it is needed."""

    def __init__(
        self,
        loaded: LoadedModel,
        recipe: Recipe,
        *,
        pairs: Callable[[], Sequence[Pair]],
        benign: Callable[[], Sequence[Samples]] = tuple,
        requests: Callable[[], Sequence[Samples]] = tuple,
    ) -> None:
        """Prepare.

        Args:
            loaded: The model, with no steerer attached when something is asked for.
            recipe: The bundle's.
            pairs: Decode the calibration pairs at the model's rate.
            benign: Decode the harmless clips that have no harmful match.
            requests: Decode matched clips of another split, to see how states lie
                where no instruction goes with them.
        """
        self._loaded = loaded
        self._recipe = recipe
        self._pairs = pairs
        self._benign = benign
        self._requests = requests

    @cached_property
    def shuffled(self) -> RefusalVectors:
        """Return the vectors that calibration finds on swapped pairs.

        The refusal vector itself is taken from the refusal sentence on whatever
        audio, so these vectors may well refuse: what they lack is a safe subspace
        that is safe. A hundred pairs are as good as more.
        """
        swapped = swap_halves(self._pairs()[:SHUFFLED_PAIRS])
        states = calibration_states(self._loaded, swapped, self._recipe)
        return refusal_vectors(states, self._recipe)

    @cached_property
    def states(self) -> CalibrationStates:
        """Return the states that the bundle was made from."""
        return calibration_states(
            self._loaded, self._pairs(), self._recipe, benign=self._benign()
        )

    @cached_property
    def served(self) -> Tensor:
        """Return the states of requests without an instruction, shape (N, L, D)."""
        turns = [Turn(role="user", audio=(clip,)) for clip in self._requests()]
        states = [
            last_states(self._loaded.decoder, build_inputs(self._loaded, [[turn]]))
            for turn in turns
        ]
        return torch.stack([rows[:, 0] for rows in states])
