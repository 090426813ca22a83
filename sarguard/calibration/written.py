"""Fitting the probe for writing: the same requests as words, without any clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sarguard.calibration.gate_fit import MatchedStates
from sarguard.calibration.recipe import BATCH_SIZE, TextPair
from sarguard.decoding.request_reader import read_canonical
from sarguard.models.loading import LoadedModel
from sarguard.types import Turn


def written_states(
    loaded: LoadedModel,
    pairs: Sequence[TextPair],
    benign: Sequence[str] = (),
    *,
    batch_size: int = BATCH_SIZE,
    after_batch: Callable[[int], None] = lambda texts: None,
) -> MatchedStates:
    """Return the last-token states of written requests, each alone.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Harmful texts and the harmless ones matched to them.
        benign: More harmless texts.
        batch_size: Maximum number of texts that are read together.
        after_batch: Called with how many texts a batch had.
    """

    def read(texts: Sequence[str]) -> Tensor:
        turns = [(Turn(role="user", text=text),) for text in texts]
        states = read_canonical(loaded, turns, batch_size=batch_size)
        after_batch(len(texts))
        # A written turn and nothing else has one reading: itself.
        return torch.stack([readings[-1].states.cpu() for readings in states])

    return MatchedStates(
        harmful=read([pair.harmful for pair in pairs]),
        safe=read([pair.safe for pair in pairs]),
        benign=read(benign) if benign else None,
    )
