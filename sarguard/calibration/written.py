"""Fitting the probe for writing: the same requests as words, without any clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sarguard.calibration.gate_fit import MatchedStates
from sarguard.calibration.journal import Journal, name_of
from sarguard.calibration.recipe import BATCH_SIZE, TextPair
from sarguard.decoding.request_reader import read_canonical
from sarguard.models.loading import LoadedModel
from sarguard.types import Turn

_TOGETHER = 32
"""Texts that are kept together."""


def written_states(
    loaded: LoadedModel,
    pairs: Sequence[TextPair],
    benign: Sequence[str] = (),
    *,
    batch_size: int = BATCH_SIZE,
    after_batch: Callable[[int], None] = lambda texts: None,
    journal: Journal | None = None,
) -> MatchedStates:
    """Return the last-token states of written requests, each alone.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Harmful texts and the harmless ones matched to them.
        benign: More harmless texts.
        batch_size: Maximum number of texts that are read together.
        after_batch: Called with how many texts a batch had.
        journal: Keeps each batch.
    """
    kept = journal or Journal()

    def read_batch(texts: Sequence[str]) -> dict[str, Tensor]:
        turns = [(Turn(role="user", text=text),) for text in texts]
        states = read_canonical(loaded, turns, batch_size=batch_size)
        # A written turn and nothing else has one reading: itself.
        return {"": torch.stack([readings[-1].states.cpu() for readings in states])}

    def read(texts: Sequence[str]) -> Tensor:
        parts = []
        for start in range(0, len(texts), _TOGETHER):
            part = texts[start : start + _TOGETHER]
            name = name_of("texts", part)
            parts.append(kept.once(name, partial(read_batch, part))[""])
            after_batch(len(part))
        return torch.cat(parts)

    return MatchedStates(
        harmful=read([pair.harmful for pair in pairs]),
        safe=read([pair.safe for pair in pairs]),
        benign=read(benign) if benign else None,
    )
