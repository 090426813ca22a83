"""Other forms of the dose, as arms: what does not prove itself here is not used.

In all of them the strength rises from a tenth of the bundle's alpha to three times it
as the gate's score rises from -1 to 1. None blocks, so that steering is compared.

| arm | what differs from `form-plain` |
|---|---|
| form-plain | nothing |
| form-raw | the vectors are not ablated |
| form-one-layer | the gate reads one layer, the best by cross-validation |
| form-all-layers | the gate reads every layer |
| form-recentred | the gate's middle is moved to requests without an instruction |
| form-relative | the push is relative to the state's own norm |
| form-norm | the state keeps its norm |
| form-spared | the vectors lose the direction of false refusals |
| form-contrast | the vectors are what tells harmful clips from their twins |
| form-decay | the push halves every 8 tokens, down to a quarter |
| form-first | after 6 tokens, in which refusal and answer part, a tenth of the push |
| form-upper | the upper half of the layers is steered |
| form-null | a map that is near zero on harmless states takes the gate's place |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from sarguard.calibration.gate_fit import cross_validate, fit_probe
from sarguard.calibration.states import CalibrationStates
from sarguard.calibration.vectors import ablate
from sarguard.decoding.readings import any_reading
from sarguard.evaluation.arms.registry import OpenArm, Setup, register_arm
from sarguard.models.layers import DecoderLayers
from sarguard.steering.dose import DoseRule, DoseSpec
from sarguard.steering.gate import LinearProbe
from sarguard.steering.steerer import Steerer

Shape: TypeAlias = Callable[[Tensor, Tensor, int, int], Tensor]
"""Return steered states (rows, positions, D) of states, push, layer and step."""

_HALF_LIFE = 8
_MIN_DECAYED = 0.25
_FIRST_TOKENS, _AFTERWARDS = 6, 0.1
_BENIGN_DIRECTIONS = 64
_RIDGE = 0.1


class ShapedSteerer(Steerer):
    """A steerer that adds to the states in another way than `h + alpha r`."""

    def __init__(self, decoder: DecoderLayers, vectors: Tensor, shape: Shape) -> None:
        """Prepare vectors for a decoder, and how they are added."""
        super().__init__(decoder, vectors)
        self._shape = shape

    def _add(self, index: int, hidden: Tensor, alphas: Tensor, count: int) -> Tensor:
        push = (alphas * self._vectors[index])[:, None]
        states = hidden[:, -count:].float()
        step = 0 if self._receipt is None else self._receipt.steered[index]
        steered = hidden.clone()
        steered[:, -count:] = self._shape(states, push, index, step).to(hidden.dtype)
        return steered


def gate_of(states: CalibrationStates, layers: range | None = None) -> LinearProbe:
    """Return a gate of calibration's states that reads some layers."""
    return fit_probe(states.matched, layers=layers)


def best_layer(states: CalibrationStates) -> int:
    """Return the layer whose gate tells most by cross-validation."""
    matched = states.matched
    areas = [
        cross_validate(
            replace(
                matched,
                harmful=matched.harmful[:, [layer]],
                safe=matched.safe[:, [layer]],
                benign=None if matched.benign is None else matched.benign[:, [layer]],
            )
        ).auc
        for layer in range(matched.harmful.shape[1])
    ]
    return areas.index(max(areas))


def recentred(
    gate: LinearProbe, states: CalibrationStates, served: Tensor
) -> LinearProbe:
    """Return a gate with its middle moved to requests as they are served.

    Args:
        gate: Fitted on calibration's states.
        states: Those states.
        served: States of matched requests without an instruction, shape (N, L, D).
    """
    last = gate.first_layer + len(gate.offsets)
    known = torch.cat([states.matched.harmful, states.matched.safe])
    shift = served.mean(0) - known.mean(0)
    moved = (gate.directions * shift[gate.first_layer : last]).sum(dim=-1)
    return replace(gate, offsets=gate.offsets + moved)


def spared_vectors(vectors: Tensor, states: CalibrationStates) -> Tensor:
    """Return vectors without what tells borderline from plain harmless states."""
    if states.benign is None:
        return vectors
    false = states.benign.double().mean(0) - states.safe.double().mean(0)
    axes = (false / false.norm(dim=-1, keepdim=True))[:, :, None]
    kept = [ablate(v, axis) for v, axis in zip(vectors, axes, strict=True)]
    return torch.stack(kept).float()


def contrast_vectors(vectors: Tensor, states: CalibrationStates) -> Tensor:
    """Return the difference of the means of harmful and safe states, (L, D).

    The direction of Arditi et al. (arXiv 2406.11717), of matched pairs, as long in each
    layer as the vectors given.
    """
    apart = states.harmful.double().mean(0) - states.safe.double().mean(0)
    length = vectors.double().norm(dim=-1, keepdim=True)
    found: Tensor = apart / apart.norm(dim=-1, keepdim=True) * length
    return found.float()


def null_space_weights(states: CalibrationStates) -> Tensor:
    """Return w with w.h near 1 on harmful states and near 0 on harmless, (L, D).

    The map of AlphaSteer (arXiv 2506.07022) with one target, the refusal vector, is
    that vector times a linear score, by ridge regression in the null space of the
    leading directions of harmless states.
    """
    groups = [states.safe] if states.benign is None else [states.safe, states.benign]
    harmless = torch.cat(groups).double()
    rows = []
    for layer in range(harmless.shape[1]):
        _, _, right = torch.linalg.svd(harmless[:, layer], full_matrices=False)
        leading = right[:_BENIGN_DIRECTIONS]
        harmful = states.harmful[:, layer].double()
        left = harmful - harmful @ leading.T @ leading
        gram = left @ left.T
        gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
        rows.append(left.T @ torch.linalg.solve(gram, torch.ones(len(left)).double()))
    return torch.stack(rows).float()


def _rule(setup: Setup) -> DoseRule:
    alpha = setup.bundle.card.alpha
    return DoseRule(floor=alpha / 10, ceiling=3 * alpha, low=-1.0, high=1.0)


def _gated(
    setup: Setup,
    *,
    probe: LinearProbe | None = None,
    vectors: Tensor | None = None,
    shape: Shape | None = None,
) -> OpenArm:
    decoder = setup.loaded.decoder
    chosen = setup.bundle.vectors.ablated if vectors is None else vectors
    steerer = (
        Steerer(decoder, chosen)
        if shape is None
        else ShapedSteerer(decoder, chosen, shape)
    )
    return OpenArm(
        steerer=steerer,
        dose=DoseSpec(rule=_rule(setup)),
        score=any_reading(probe or setup.bundle.gate.spoken),
    )


def _gated_by(setup: Setup, layers: range) -> OpenArm:
    return _gated(setup, probe=gate_of(setup.recalibration().states, layers))


def _one_layer(setup: Setup) -> OpenArm:
    layer = best_layer(setup.recalibration().states)
    return _gated_by(setup, range(layer, layer + 1))


def _recentred(setup: Setup) -> OpenArm:
    again = setup.recalibration()
    return _gated(
        setup, probe=recentred(setup.bundle.gate.spoken, again.states, again.served)
    )


def _relative(setup: Setup) -> OpenArm:
    norms = setup.bundle.vectors.state_norms.tolist()
    return _gated(
        setup,
        shape=lambda h, push, layer, _: (
            h + push * h.norm(dim=-1, keepdim=True) / norms[layer]
        ),
    )


def _norm(setup: Setup) -> OpenArm:
    def keep(h: Tensor, push: Tensor, _layer: int, _step: int) -> Tensor:
        moved = h + push
        scale: Tensor = h.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)
        return moved * scale

    return _gated(setup, shape=keep)


def _spared(setup: Setup) -> OpenArm:
    states = setup.recalibration().states
    return _gated(setup, vectors=spared_vectors(setup.bundle.vectors.ablated, states))


def _contrast(setup: Setup) -> OpenArm:
    states = setup.recalibration().states
    return _gated(setup, vectors=contrast_vectors(setup.bundle.vectors.ablated, states))


def _first(setup: Setup) -> OpenArm:
    return _gated(
        setup,
        shape=lambda h, push, _, step: (
            h + push * (1.0 if step < _FIRST_TOKENS else _AFTERWARDS)
        ),
    )


def _decay(setup: Setup) -> OpenArm:
    return _gated(
        setup,
        shape=lambda h, push, _, step: (
            h + push * max(_MIN_DECAYED, 0.5 ** (step / _HALF_LIFE))
        ),
    )


def _upper(setup: Setup) -> OpenArm:
    vectors = setup.bundle.vectors.ablated.clone()
    vectors[: len(vectors) // 2] = 0
    return _gated(setup, vectors=vectors)


def _null(setup: Setup) -> OpenArm:
    weights = null_space_weights(setup.recalibration().states)

    def mapped(h: Tensor, push: Tensor, layer: int, _step: int) -> Tensor:
        part = (h @ weights[layer].to(h.device)).clamp(0, 1)[..., None]
        return h + push * part

    steerer = ShapedSteerer(setup.loaded.decoder, setup.bundle.vectors.ablated, mapped)
    return OpenArm(steerer=steerer, dose=DoseSpec.constant(_rule(setup).ceiling))


_FORMS: dict[str, Callable[[Setup], OpenArm]] = {
    "form-plain": _gated,
    "form-raw": lambda setup: _gated(setup, vectors=setup.bundle.vectors.raw),
    "form-one-layer": _one_layer,
    "form-all-layers": lambda setup: _gated_by(setup, range(len(setup.loaded.decoder))),
    "form-recentred": _recentred,
    "form-relative": _relative,
    "form-norm": _norm,
    "form-spared": _spared,
    "form-contrast": _contrast,
    "form-decay": _decay,
    "form-first": _first,
    "form-upper": _upper,
    "form-null": _null,
}


def register_forms() -> Sequence[str]:
    """Make every form known as an arm, and return their names."""
    for name, build in _FORMS.items():
        _register(name, build)
    return tuple(_FORMS)


def _register(name: str, build: Callable[[Setup], OpenArm]) -> None:
    register_arm(name, lambda setup, _alpha: build(setup), swept=False)
