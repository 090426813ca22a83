"""How far apart harmful and harmless requests stand in every layer.

Two figures a layer, both areas under the ROC curve (0.5 is chance, 1 is perfect), of
the clean state at the last prompt token:

* along the refusal vector that steers: does the model lean to refusal by itself?
* by a shrunken linear discriminant, fitted without the pair that it scores: could
  anything linear tell the two apart?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sarguard.evaluation.data.items import CLEAN, Item
from sarguard.evaluation.run.batch_answers import Progress, make_batches
from sarguard.models.loading import LoadedModel
from sarguard.steering.residual import last_states

_FOLDS = 5
_MIN_CLUSTERS = 2 * _FOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """Areas of every layer, first to last."""

    along_vector: tuple[float, ...]
    by_probe: tuple[float, ...]
    """Empty where there are too few pairs to leave some out."""
    harmful: int
    safe: int


def measure_separation(
    loaded: LoadedModel,
    vectors: Tensor,
    items: Sequence[Item],
    *,
    batch_size: int,
    known: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> Separation | None:
    """Read the states of harmful requests and of those that match, and compare them.

    Args:
        loaded: The model, with no steerer attached.
        vectors: One direction a layer, shape (L, D).
        items: Those of the suites `harmful` and `safe` are read, as they are.
        batch_size: Most requests in one forward pass.
        known: States that are known already, (L, D) by the request's identifier.
        progress: Called with requests done, all of them, and what is done.

    Returns:
        None if one of the two suites is missing.
    """
    chosen = [i for i in items if i.suite in ("harmful", "safe") and i.variant == CLEAN]
    harmful = np.array([item.kind == "harmful" for item in chosen], dtype=bool)
    if not harmful.any() or harmful.all():
        return None
    rows = read_requests(
        loaded, chosen, batch_size=batch_size, known=known, progress=progress
    )
    states: NDArray[np.float64] = rows.double().numpy()
    along = np.einsum("nld,ld->ln", states, vectors.double().numpy())
    groups = np.array([item.cluster for item in chosen])
    return Separation(
        along_vector=tuple(area(harmful, scores) for scores in along),
        by_probe=tuple(_probe(states, harmful, groups)),
        harmful=int(harmful.sum()),
        safe=int((~harmful).sum()),
    )


def area(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the chance that a positive outscores another, ties counting half."""
    ours, theirs = scores[positive][:, None], scores[~positive][None]
    return float(np.mean((ours > theirs) + 0.5 * (ours == theirs)))


def read_requests(
    loaded: LoadedModel,
    items: Sequence[Item],
    *,
    batch_size: int,
    known: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return the clean last-token states of requests, shape (N, L, D)."""
    found = dict(known or {})
    missing = [item for item in items if item.id not in found]
    done = 0
    for batch in make_batches(loaded, missing, size=batch_size) if missing else ():
        if progress is not None:
            progress(done, len(missing), "states")
        states = last_states(loaded.decoder, batch.inputs).transpose(0, 1)
        names = [missing[place].id for place in batch.places]
        found |= dict(zip(names, states, strict=True))
        done += len(batch.places)
    return torch.stack([found[item.id] for item in items])


def _probe(
    states: NDArray[np.float64], harmful: NDArray[np.bool_], groups: NDArray[np.str_]
) -> list[float]:
    if len(set(groups.tolist())) < _MIN_CLUSTERS:
        return []
    return [
        _probe_layer(states[:, layer], harmful, groups)
        for layer in range(states.shape[1])
    ]


def _probe_layer(
    states: NDArray[np.float64], harmful: NDArray[np.bool_], groups: NDArray[np.str_]
) -> float:
    """Return the area of scores from folds that keep matched pairs together."""
    from sklearn.discriminant_analysis import (  # type: ignore[import-untyped]
        LinearDiscriminantAnalysis,
    )
    from sklearn.model_selection import GroupKFold  # type: ignore[import-untyped]

    scores = np.zeros(len(harmful))
    for train, test in GroupKFold(_FOLDS).split(states, harmful, groups):
        # Shrunken as Ledoit and Wolf do: with fewer requests than dimensions the plain
        # covariance has no inverse.
        fit: Any = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        fit.fit(states[train], harmful[train])
        scores[test] = fit.decision_function(states[test])
    return area(harmful, scores)
