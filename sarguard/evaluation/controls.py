"""The control that owes nothing to which half of a pair is harmful."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sarguard.models.loading import LoadedModel
from sarguard.steering.calibration import (
    AudioPair,
    Pair,
    Progress,
    calibration_states,
    refusal_vectors,
)
from sarguard.steering.recipe import Recipe
from sarguard.steering.vectors import RefusalVectors

SHUFFLE_SEED = 633


def swap_halves(pairs: Sequence[Pair], *, seed: int = SHUFFLE_SEED) -> list[AudioPair]:
    """Return the pairs, the two halves of about every second one swapped."""
    draw = random.Random(seed)
    return [
        AudioPair(harmful=pair.safe, safe=pair.harmful)
        if draw.random() < 0.5
        else AudioPair(harmful=pair.harmful, safe=pair.safe)
        for pair in pairs
    ]


def shuffled_vectors(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    recipe: Recipe,
    *,
    progress: Progress | None = None,
) -> RefusalVectors:
    """Return the vectors that calibration finds on swapped pairs.

    The refusal vector itself is taken from the refusal sentence on whatever audio, so
    these vectors may well refuse: what they lack is a safe subspace that is safe.
    """
    swapped = swap_halves(pairs)
    states = calibration_states(loaded, swapped, recipe, progress=progress)
    return refusal_vectors(states, recipe)
