"""Computing a model's refusal vectors (SARSteer, arXiv 2510.17633) and its gate.

For pairs of a harmful clip a_h and its harmless twin a_s, an instruction t and a
refusal sentence p, with h_l(a, t) the state of layer l at the last prompt token:

    v_l = mean_i [ h_l(a_h_i, t + p) - h_l(a_h_i, t) ]
    r_l = v_l without its part in the leading k directions of h_l(a_s, t)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sarguard.calibration.recipe import REFERENCE_RECIPE, Recipe
from sarguard.calibration.states import BATCH_SIZE, read_states
from sarguard.calibration.subspace import ablate, safe_basis
from sarguard.errors import (
    DegenerateDirectionError,
    InsufficientDataError,
)
from sarguard.models.loading import LoadedModel
from sarguard.steering.gate import Gate, GateQuality, Matched, cross_validate, fit_gate
from sarguard.steering.vectors import RefusalVectors

_ALONE = ""
"""What goes with a clip that is asked alone."""

Progress = Callable[[int, int], None]


class Pair(Protocol):
    """Say what calibration needs of a pair; any object with these will do."""

    @property
    def harmful(self) -> NDArray[np.float32]:
        """Return the harmful clip, mono at the model's rate, shape (samples,)."""

    @property
    def safe(self) -> NDArray[np.float32]:
        """Return the harmless twin, in the same form."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioPair:
    """Hold a harmful clip and its harmless twin, mono float32, (samples,)."""

    harmful: NDArray[np.float32]
    safe: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationStates:
    """Hold the last-token states of calibration, float32, shape (N, L, D)."""

    refusing: Tensor
    """Harmful clip, instruction and refusal sentence."""
    harmful: Tensor
    """The same harmful clip, instruction alone."""
    safe: Tensor
    """Harmless twin, instruction alone."""
    benign: Tensor | None = None
    """Harmless clips without a twin, instruction alone, shape (M, L, D)."""
    alone: Matched | None = None
    """The same clips with no text at all, which the gate learns from as well."""

    @property
    def matched(self) -> Matched:
        """Return what a gate is fitted to: each clip read in every way, in a row."""
        told = Matched(harmful=self.harmful, safe=self.safe, benign=self.benign)
        return told if self.alone is None else told.beside(self.alone)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibrated:
    """Hold what calibration found."""

    vectors: RefusalVectors
    gate: Gate
    quality: GateQuality
    """What cross-validation over the pairs says of the gate."""


def calibrate(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    recipe: Recipe = REFERENCE_RECIPE,
    *,
    benign: Sequence[NDArray[np.float32]] = (),
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Calibrated:
    """Compute a model's refusal vectors and its gate from matched clips.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Harmful clips with their harmless twins, at the model's rate.
        recipe: What is asked, and how much of the safe subspace is removed.
        benign: Harmless clips without a twin, at the model's rate; the gate alone
            learns from them.
        batch_size: Most clips that are read together.
        progress: Called with (clips done, all of them).

    Raises:
        InsufficientDataError: There are fewer than `rank` + 1 pairs, or than 3.
        DegenerateDirectionError: A vector vanished or is not finite.
        ConfigurationError: A setting is out of range.
    """
    _check_settings(len(pairs), recipe)
    states = calibration_states(
        loaded,
        pairs,
        recipe,
        benign=benign,
        batch_size=batch_size,
        progress=progress,
    )
    return Calibrated(
        vectors=refusal_vectors(states, recipe),
        gate=fit_gate(states.matched),
        quality=cross_validate(states.matched),
    )


def calibration_states(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    recipe: Recipe = REFERENCE_RECIPE,
    *,
    benign: Sequence[NDArray[np.float32]] = (),
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> CalibrationStates:
    """Read the states that calibration works with."""
    harmful = [pair.harmful for pair in pairs]
    safe = [pair.safe for pair in pairs]
    total = len(harmful) + len(safe) + len(benign)
    done = 0

    def count(clips: int) -> None:
        nonlocal done
        done += clips
        if progress is not None:
            progress(done, total)

    def read(clips: Sequence[NDArray[np.float32]], *texts: str) -> list[Tensor]:
        return read_states(
            loaded, clips, texts, batch_size=batch_size, after_batch=count
        )

    text = recipe.instruction
    refusing, told, alone = read(harmful, text + recipe.refusal, text, _ALONE)
    safe_told, safe_alone = read(safe, text, _ALONE)
    extra = read(benign, text, _ALONE) if benign else (None, None)
    return CalibrationStates(
        refusing=refusing,
        harmful=told,
        safe=safe_told,
        benign=extra[0],
        alone=Matched(harmful=alone, safe=safe_alone, benign=extra[1]),
    )


def refusal_vectors(
    states: CalibrationStates, recipe: Recipe = REFERENCE_RECIPE
) -> RefusalVectors:
    """Compute refusal vectors from calibration's states, in float64."""
    _check_settings(states.harmful.shape[0], recipe)
    raw = (states.refusing.double() - states.harmful.double()).mean(dim=0)
    _check_directions("refusal vector", raw, floor=torch.zeros(len(raw)))
    bases = [safe_basis(layer, recipe.rank) for layer in states.safe.unbind(dim=1)]
    ablated = torch.stack(
        [ablate(v, b.vectors, recipe.lam) for v, b in zip(raw, bases, strict=True)]
    )
    # What rounding leaves of a vector that lies in the safe subspace is noise.
    _check_directions("ablated vector", ablated, floor=1e-6 * raw.norm(dim=-1))
    return RefusalVectors(
        raw=raw.float(),
        ablated=ablated.float(),
        explained_variance=torch.stack([b.explained_variance for b in bases]).float(),
        state_norms=states.harmful.norm(dim=-1).mean(dim=0).float(),
    )


def _check_settings(count: int, recipe: Recipe) -> None:
    if count < recipe.rank + 1:
        raise InsufficientDataError(
            f"{count} pair(s) for rank {recipe.rank}: give at least {recipe.rank + 1} "
            "pairs, or lower the rank"
        )


def _check_directions(what: str, directions: Tensor, *, floor: Tensor) -> None:
    norms = directions.norm(dim=-1)
    for layer, (norm, least) in enumerate(zip(norms, floor, strict=True)):
        if not bool(torch.isfinite(norm)) or bool(norm <= least):
            raise DegenerateDirectionError(
                f"the {what} of layer {layer} has norm {float(norm):.3g}: check that "
                "the refusal sentence is not empty, that the clips differ, and that "
                "the model's dtype does not overflow"
            )
