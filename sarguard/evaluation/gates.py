"""Other gates: how well each tells harmful requests from every kind of harmless one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sarguard.evaluation.arms import Setup
from sarguard.evaluation.forms import best_layer, gate_of
from sarguard.evaluation.items import CLEAN, Item
from sarguard.evaluation.separation import Steps, area, read_requests
from sarguard.steering.calibration import CalibrationStates
from sarguard.steering.gate import Gate, Matched, fit_gate

_HARMLESS = ("safe", "borderline", "ordinary")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTrial:
    """Hold what one gate made of requests that it was not fitted on."""

    gate: str
    areas: dict[str, float]
    """Area under the ROC curve of harmful requests against each harmless suite."""


def try_gates(
    setup: Setup,
    items: Sequence[Item],
    *,
    batch_size: int,
    known: Mapping[str, Tensor] | None = None,
    progress: Steps | None = None,
) -> tuple[GateTrial, ...]:
    """Fit gates to calibration's states, and judge them on other requests.

    Args:
        setup: The model, with no steerer attached, and what calibrates it again.
        items: What they are judged on, as it is.
        batch_size: Most requests read at once.
        known: States that were read already, by the request's identifier.
        progress: Called with requests read, all of them, and what is done.
    """
    clean = [item for item in items if item.variant == CLEAN]
    states = read_requests(
        setup.loaded, clean, batch_size=batch_size, known=known, progress=progress
    ).transpose(0, 1)
    suites = np.array([item.suite for item in clean])
    gates = [("the bundle's: upper half", setup.bundle.gate)]
    gates += _others(setup.recalibration().states)
    return tuple(_judge(name, gate, states, suites) for name, gate in gates)


def _others(states: CalibrationStates) -> Iterator[tuple[str, Gate]]:
    layers = states.harmful.shape[1]
    best = best_layer(states)
    yield f"layer {best}, the best of one", gate_of(states, range(best, best + 1))
    yield "the last layer", gate_of(states, range(layers - 1, layers))
    yield "the third quarter", gate_of(states, range(layers // 2, 3 * layers // 4))
    yield "the last quarter", gate_of(states, range(3 * layers // 4, layers))
    yield "every layer", gate_of(states, range(layers))
    yield "without borderline clips", fit_gate(replace(states.matched, benign=None))
    told = Matched(harmful=states.harmful, safe=states.safe, benign=states.benign)
    yield "read with the instruction only", fit_gate(told)
    for shrinkage in (0.1, 0.9):
        found = fit_gate(states.matched, shrinkage=shrinkage)
        yield f"shrinkage {shrinkage:g}", found


def _judge(
    name: str, gate: Gate, states: Tensor, suites: NDArray[np.str_]
) -> GateTrial:
    scores = gate.score(states).double().numpy()
    areas = {}
    for suite in _HARMLESS:
        among = (suites == "harmful") | (suites == suite)
        harmful = suites[among] == "harmful"
        if harmful.any() and not harmful.all():
            areas[suite] = area(harmful, scores[among])
    return GateTrial(gate=name, areas=areas)
