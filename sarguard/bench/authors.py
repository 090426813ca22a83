"""The authors' calibration written out plainly, to be timed against ours.

For each pair four forward passes of the whole model, one prompt at a time: harmful and
harmless clip, without and with the refusal sentence. A hook on every layer copies its
last position to the CPU. The fourth pass is made and not used, as in their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sarguard.calibration.recipe import Pair, Recipe
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.models.untyped import LayerOutput
from sarguard.steering.residual import read_residual
from sarguard.types import Turn

AuthorsStates: TypeAlias = dict[str, list[Tensor]]
"""By arm: one tensor (layers, width) a pair."""

ARMS = ("harmful", "refusing", "safe", "safe refusing")


def authors_states(
    loaded: LoadedModel, pairs: Sequence[Pair], recipe: Recipe
) -> AuthorsStates:
    """Return the last-token states of each arm."""
    found: AuthorsStates = {arm: [] for arm in ARMS}
    texts = (recipe.instruction, recipe.instruction + recipe.refusal)
    for pair in pairs:
        forms = [(clip, text) for clip in (pair.harmful, pair.safe) for text in texts]
        for arm, (clip, text) in zip(ARMS, forms, strict=True):
            turn = Turn(role="user", text=text, audio=(clip,))
            found[arm].append(_states(loaded, build_inputs(loaded, [[turn]])))
    return found


def authors_vectors(states: AuthorsStates, recipe: Recipe) -> Tensor:
    """Return the safe-ablated vector of every layer, shape (layers, width)."""
    refusing, harmful, safe = (
        torch.stack(states[arm]) for arm in ("refusing", "harmful", "safe")
    )
    vectors = []
    for layer in range(harmful.shape[1]):
        raw = (refusing[:, layer] - harmful[:, layer]).mean(dim=0)
        centred = safe[:, layer] - safe[:, layer].mean(dim=0)
        left, _, _ = torch.linalg.svd(centred.T, full_matrices=False)
        basis = left[:, : recipe.rank]
        vectors.append(raw - recipe.lam * basis @ (basis.T @ raw))
    return torch.stack(vectors)


def _states(loaded: LoadedModel, inputs: dict[str, Tensor]) -> Tensor:
    seen: list[Tensor] = []
    streams = loaded.decoder.streams

    def read(_module: nn.Module, _args: object, output: LayerOutput) -> None:
        seen.append(read_residual(output, streams)[0, -1].detach().float().cpu())

    handles = [layer.register_forward_hook(read) for layer in loaded.decoder.layers]
    try:
        with torch.no_grad():
            loaded.model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen)
