"""Reading a prompt: once, steered; or its end twice, where the dose reads it first.

A dose that depends on the request reads the clean states of the last prompt token.
That token is then cropped from the cache and run a second time, steered: the answer is
decoded from what a single steered prefill gives. No logits are computed but those of
the last token, and of the clean states none, unless they are to be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig

from sarguard.decoding.readings import (
    RowReadings,
    Score,
    request_scores,
    strongest,
)
from sarguard.decoding.row import Row
from sarguard.models import transformers_api
from sarguard.models.layers import named_module
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import (
    is_croppable,
    keep_cache,
    kept_cache,
    returned_cache,
)
from sarguard.models.untyped import KeyValueCache, PretrainedModel
from sarguard.steering.residual import capture_last_states
from sarguard.steering.steerer import Steerer


@dataclass(slots=True, kw_only=True)
class Prompt:
    """What the library prepared for the first forward pass."""

    model: PretrainedModel
    ids: Tensor
    """Left padded, shape (rows, tokens)."""
    config: GenerationConfig
    kwargs: dict[str, Any]
    prefilled: bool = False
    """Whether the cache holds every token but the last of each row."""
    bare_logits: Tensor | None = None
    """Unsteered logits of the first answer token, shape (rows, vocabulary); None where
    nothing is compared with them."""

    def unpadded_ids(self) -> list[list[int]]:
        """Return the prompt tokens of each row, without padding."""
        mask = self.kwargs.get("attention_mask")
        if mask is None:
            return [list(row) for row in self.ids.tolist()]
        return [
            row[kept.bool()].tolist() for row, kept in zip(self.ids, mask, strict=True)
        ]

    def copy_cache(self) -> KeyValueCache:
        """Return a copy of the cache, to run what is left of the prompt once more."""
        # Deep, as a forward pass writes into the cache that it is given.
        return copy.deepcopy(kept_cache(self.kwargs))

    def set_cache(self, cache: KeyValueCache) -> None:
        """Put a cache in the place of this one."""
        keep_cache(self.kwargs, cache)


def clean_states(
    loaded: LoadedModel,
    steerer: Steerer,
    prompt: Prompt,
    rows: Sequence[Row],
    known: Tensor | None = None,
) -> Tensor | None:
    """Return the unsteered last-token states, shape (layers, rows, width).

    Where they are `known`, with a cache of all tokens but the last, nothing is run
    unless the unsteered model's logits are to be compared.

    Returns None, and runs nothing, where no dose reads them and nothing is compared
    with the unsteered model.
    """
    compares = any(row.dose.shadow for row in rows)
    if not compares and not any(row.dose.reads_states for row in rows):
        return None
    if known is not None and not compares:
        prompt.prefilled = True
        return known
    # Taken before the pass fills it: an empty cache costs nothing to copy, and a cache
    # that cannot be cropped has to be filled again from the beginning.
    untouched = prompt.copy_cache()
    with steerer.bare(), capture_last_states(loaded.decoder) as captured:
        outputs = _run(prompt, positions=1 if compares else 0)
    prompt.bare_logits = outputs.logits[:, -1].float() if compares else None
    cache = returned_cache(outputs)
    prompt.prefilled = is_croppable(cache)
    if prompt.prefilled:
        # A negative number is how many columns are taken off the end.
        cache.crop(-1)
    prompt.set_cache(cache if prompt.prefilled else untouched)
    return captured.stacked().float()


def decide_doses(
    rows: Sequence[Row],
    states: Tensor | None,
    score: Score | None,
    readings: Sequence[RowReadings] | None = None,
) -> None:
    """Decide each row's dose by its strongest score; rows to be blocked end.

    Args:
        rows: One a request.
        states: Clean states of the prompts, shape (layers, rows, width).
        score: The gate.
        readings: What else was read of each request; by default nothing.
    """
    for index, row in enumerate(rows):
        if not row.dose.reads_states or states is None or score is None:
            row.decision = row.dose.decide(None)
        else:
            beside = RowReadings() if readings is None else readings[index]
            read = beside.with_place(states[:, index])
            kind, found = strongest(request_scores(read, score))
            row.decision = replace(row.dose.decide(found), reading=kind)
        if row.decision.blocked:
            row.end("blocked")


def steered_prefill(prompt: Prompt) -> Any:  # noqa: ANN401
    """Run what is left of the prompt, inside the guard; return the model's output."""
    if not prompt.prefilled:
        return _run(prompt, positions=1)
    return transformers_api.run_last_token(prompt.model, prompt.ids, prompt.kwargs)


@contextmanager
def last_positions(model: PretrainedModel, count: int) -> Iterator[None]:
    """Give the output layer the last positions of each row alone, inside the block.

    `logits_to_keep` says so in some families and does not exist in others, so the
    layer's input is cut instead. A layer other than a plain one, such as a quantised
    one, may be unable to run on nothing: it gets one position at the least. A model
    that does not say which layer is its output layer runs as it is.

    Args:
        model: The model, called inside the block.
        count: Positions of each row that logits are needed of; 0 or more.
    """
    layer = named_module(model, "get_output_embeddings")
    if layer is None:
        yield
        return
    kept = count if type(layer) is nn.Linear else max(1, count)

    def cut(_layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        if not isinstance(hidden, Tensor) or hidden.dim() != 3:
            return None
        # Not [-kept:], which for 0 would be everything.
        return (hidden[:, max(0, hidden.shape[1] - kept) :], *args[1:])

    handle = layer.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()


def _run(prompt: Prompt, *, positions: int) -> Any:  # noqa: ANN401
    with last_positions(prompt.model, positions):
        return transformers_api.prefill(
            prompt.model, prompt.ids, prompt.config, prompt.kwargs
        )
