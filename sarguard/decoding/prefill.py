"""Reading a prompt: once, steered; or twice at its end, where a dose looks first.

A dose that depends on the request reads the clean states of the last prompt token.
The cache then loses that one token again, and the token is run a second time, now
steered: what the answer is decoded from is what a single steered prefill gives. No
logits are computed but those of the last token, and of the clean states none, unless
they are to be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor
from transformers import GenerationConfig

from sarguard.decoding.output_layer import last_positions
from sarguard.decoding.row import Row
from sarguard.models import transformers_api
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import (
    is_croppable,
    keep_cache,
    kept_cache,
    returned_cache,
)
from sarguard.models.untyped import KeyValueCache, PretrainedModel
from sarguard.steering.states import capturing
from sarguard.steering.steerer import Steerer

Score: TypeAlias = Callable[[Tensor], Tensor]
"""Scores clean last-token states, (layers, rows, width) -> (rows,), as a gate does."""


@dataclass(slots=True, kw_only=True)
class Prompt:
    """Hold what the library prepared for the first forward pass."""

    model: PretrainedModel
    ids: Tensor
    """Left padded, shape (rows, tokens)."""
    config: GenerationConfig
    kwargs: dict[str, Any]
    was_read: bool = False
    """Whether the cache holds every token but the last of each row."""
    bare: Tensor | None = None
    """Logits of the first answer token as the model is, shape (rows, words); None
    where nothing is compared with them."""

    def unpadded_ids(self) -> list[list[int]]:
        """Return the prompt tokens of each row, without padding."""
        mask = self.kwargs.get("attention_mask")
        if mask is None:
            return [list(row) for row in self.ids.tolist()]
        return [
            row[kept.bool()].tolist() for row, kept in zip(self.ids, mask, strict=True)
        ]


def clean_states(
    loaded: LoadedModel, steerer: Steerer, prompt: Prompt, rows: Sequence[Row]
) -> Tensor | None:
    """Return the unsteered last-token states, shape (layers, rows, width).

    Returns None where no dose reads them and nothing is compared with what the bare
    model says; then nothing was run.
    """
    compares = any(row.compares for row in rows)
    if not compares and not any(row.dose.reads_states for row in rows):
        return None
    # An empty cache costs nothing to copy.
    untouched = copy.deepcopy(kept_cache(prompt.kwargs))
    with steerer.reading(), capturing(loaded.decoder) as found:
        outputs = _run(prompt, positions=1 if compares else 0)
    prompt.bare = outputs.logits[:, -1].float() if compares else None
    cache = returned_cache(outputs)
    prompt.was_read = _loses_one_token(cache)
    keep_cache(prompt.kwargs, cache if prompt.was_read else untouched)
    return found.stacked().float()


def decide_doses(
    rows: Sequence[Row], states: Tensor | None, score: Score | None
) -> None:
    """Decide each row's dose; rows that are to be blocked end."""
    for index, row in enumerate(rows):
        found = None
        if row.dose.reads_states and states is not None and score is not None:
            # Row by row, so that a request's score is the same in any batch.
            found = float(score(states[:, index : index + 1]))
        row.decision = row.dose.decide(found)
        if row.decision.blocked:
            row.end("blocked")


def steered_prefill(prompt: Prompt) -> Any:  # noqa: ANN401
    """Run what is left of the prompt, inside the guard; return the model's output."""
    if not prompt.was_read:
        return _run(prompt, positions=1)
    return transformers_api.run_last_token(prompt.model, prompt.ids, prompt.kwargs)


def spare_cache(prompt: Prompt) -> Any:  # noqa: ANN401
    """Return a copy of the prompt's cache, to run what is left of it once more."""
    return copy.deepcopy(kept_cache(prompt.kwargs))


def give_cache(prompt: Prompt, cache: object) -> None:
    """Put a cache in the place of the prompt's."""
    keep_cache(prompt.kwargs, cache)


def _run(prompt: Prompt, *, positions: int) -> Any:  # noqa: ANN401
    with last_positions(prompt.model, positions):
        return transformers_api.prefill(
            prompt.model, prompt.ids, prompt.config, prompt.kwargs
        )


def _loses_one_token(cache: KeyValueCache) -> bool:
    """Take the last token out of a cache, where that leaves it as it was before."""
    if not is_croppable(cache):
        return False
    cache.crop(-1)
    return True
