"""Computing a model's refusal vectors (SARSteer, arXiv 2510.17633) and its gate.

For pairs of a harmful clip a_h and its harmless twin a_s, an instruction t and a
refusal sentence p, with h_l(a, t) the state of layer l at the last prompt token:

    v_l = mean_i [ h_l(a_h_i, t + p) - h_l(a_h_i, t) ]
    r_l = v_l without its part in the leading k directions of h_l(a_s, t)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sarguard.conversation import Turn
from sarguard.errors import (
    DegenerateDirectionError,
    InsufficientDataError,
)
from sarguard.models.families import family_of
from sarguard.models.inputs import audio_token_id, build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.models.untyped import KeyValueCache
from sarguard.steering.gate import Gate, GateQuality, cross_validate, fit_gate
from sarguard.steering.recipe import REFERENCE_RECIPE, Recipe
from sarguard.steering.states import last_states, run_and_read
from sarguard.steering.subspace import ablate, safe_basis
from sarguard.steering.vectors import RefusalVectors

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
    progress: Progress | None = None,
) -> Calibrated:
    """Compute a model's refusal vectors and its gate from matched clips.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Harmful clips with their harmless twins, at the model's rate.
        recipe: What is asked, and how much of the safe subspace is removed.
        benign: Harmless clips without a twin, at the model's rate; the gate alone
            learns from them.
        progress: Called with (clips or pairs done, all of them).

    Raises:
        InsufficientDataError: There are fewer than `rank` + 1 pairs, or than 3.
        DegenerateDirectionError: A vector vanished or is not finite.
        ConfigurationError: A setting is out of range.
    """
    _check_settings(len(pairs), recipe)
    states = calibration_states(loaded, pairs, recipe, benign=benign, progress=progress)
    return Calibrated(
        vectors=refusal_vectors(states, recipe),
        gate=fit_gate(states.harmful, states.safe, benign=states.benign),
        quality=cross_validate(states.harmful, states.safe, benign=states.benign),
    )


def calibration_states(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    recipe: Recipe = REFERENCE_RECIPE,
    *,
    benign: Sequence[NDArray[np.float32]] = (),
    progress: Progress | None = None,
) -> CalibrationStates:
    """Read the states that calibration works with, clip by clip."""
    total = len(pairs) + len(benign)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for done, pair in enumerate(pairs, start=1):
        harmful = _prompt(loaded, pair.harmful, recipe.instruction)
        refusing = _prompt(loaded, pair.harmful, recipe.instruction + recipe.refusal)
        rows.append(
            (
                *_read_both(loaded, refusing, harmful),
                _read(loaded, pair.safe, recipe.instruction),
            )
        )
        if progress is not None:
            progress(done, total)
    extra = []
    for done, clip in enumerate(benign, start=len(pairs) + 1):
        extra.append(_read(loaded, clip, recipe.instruction))
        if progress is not None:
            progress(done, total)
    stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
    return CalibrationStates(
        refusing=stacked[0],
        harmful=stacked[1],
        safe=stacked[2],
        benign=torch.stack(extra) if extra else None,
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


def _prompt(
    loaded: LoadedModel, clip: NDArray[np.float32], text: str
) -> dict[str, Tensor]:
    return build_inputs(loaded, [[Turn(role="user", text=text, audio=(clip,))]])


def _read(loaded: LoadedModel, clip: NDArray[np.float32], text: str) -> Tensor:
    return last_states(loaded.decoder, _prompt(loaded, clip, text))[:, 0]


def _read_both(
    loaded: LoadedModel, refusing: dict[str, Tensor], harmful: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    shared = _shared_length(loaded, refusing["input_ids"], harmful["input_ids"])
    if shared == 0:
        return (
            last_states(loaded.decoder, refusing)[:, 0],
            last_states(loaded.decoder, harmful)[:, 0],
        )
    prefix = {**harmful, "input_ids": harmful["input_ids"][:, :shared]}
    prefix["attention_mask"] = harmful["attention_mask"][:, :shared]
    _, cache = run_and_read(loaded.decoder, prefix, use_cache=True)
    return (
        _continue(loaded, refusing, shared, copy.deepcopy(cache)),
        _continue(loaded, harmful, shared, cache),
    )


def _continue(
    loaded: LoadedModel, prompt: dict[str, Tensor], shared: int, cache: KeyValueCache
) -> Tensor:
    rest = {
        "input_ids": prompt["input_ids"][:, shared:],
        "attention_mask": prompt["attention_mask"],
        "past_key_values": cache,
    }
    states, _ = run_and_read(loaded.decoder, rest, use_cache=True)
    return states[:, 0]


def _shared_length(loaded: LoadedModel, first: Tensor, second: Tensor) -> int:
    """Return how many leading tokens, all audio among them, two prompts share."""
    if not family_of(loaded.model.config).shares_prefix:
        return 0
    # Every prompt keeps one token of its own: its last one is what is read.
    length = min(first.shape[1], second.shape[1]) - 1
    differs = (first[0, :length] != second[0, :length]).nonzero()
    shared = int(differs[0]) if len(differs) else length
    token = audio_token_id(loaded)
    if token is None:
        return 0
    audio = (second[0] == token).nonzero()
    covers_audio = len(audio) > 0 and int(audio[-1]) < shared
    return shared if covers_audio else 0
