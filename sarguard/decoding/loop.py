"""The decode loop: prefill, dose, then one checked step after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from sarguard.decoding.divergence import divergence
from sarguard.decoding.generation_config import configure, stop_tokens
from sarguard.decoding.prefill import (
    Prompt,
    Score,
    clean_states,
    decide_doses,
    give_cache,
    spare_cache,
    steered_prefill,
)
from sarguard.decoding.row import Row
from sarguard.decoding.sampling import Chooser, choose_tokens
from sarguard.models import transformers_api
from sarguard.models.loading import LoadedModel
from sarguard.models.untyped import PretrainedModel
from sarguard.steering.receipt import Receipt
from sarguard.steering.steerer import Steerer


def decode_rows(
    loaded: LoadedModel,
    steerer: Steerer,
    inputs: Mapping[str, Any],
    rows: Sequence[Row],
    *,
    score: Score | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Decode until every row has ended, and prove each token before it is taken.

    Args:
        loaded: The model.
        steerer: Attached to that model.
        inputs: What `build_inputs` gave.
        rows: One a row of the inputs; filled in.
        score: The gate, where a dose depends on the request.
        after_step: Called when a step's tokens are in their rows. It may end rows;
            if it raises, decoding stops and the model is free.

    Raises:
        ConfigurationError: The model's generation config asks for speculative or
            cacheless decoding, or a strength is out of range.
        SteeringError: From here on nothing can be proven to be steered; tokens that
            are in the rows already were.
    """
    config = configure(loaded, max(row.max_new_tokens for row in rows))
    loop = _Loop(loaded, steerer, rows, score, after_step)
    transformers_api.run_loop(loaded.model, inputs, config, loop)


class _Loop:
    """Stand in for the library's sampling loop, which prepared everything else."""

    def __init__(
        self,
        loaded: LoadedModel,
        steerer: Steerer,
        rows: Sequence[Row],
        score: Score | None,
        after_step: Callable[[], None],
    ) -> None:
        self._loaded = loaded
        self._steerer = steerer
        self._rows = rows
        self._score = score
        self._after_step = after_step
        self._stops = frozenset(stop_tokens(loaded))

    def __call__(
        self,
        model: PretrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: object,
        generation_config: GenerationConfig,
        **model_kwargs: Any,  # noqa: ANN401
    ) -> Tensor:
        prompt = Prompt(
            model=model, ids=input_ids, config=generation_config, kwargs=model_kwargs
        )
        states = clean_states(self._loaded, self._steerer, prompt, self._rows)
        decide_doses(self._rows, states, self._score)
        if any(row.alive for row in self._rows):
            if all(row.bare for row in self._rows):
                self._decode_bare(prompt, logits_processor)
            else:
                self._decode(prompt, logits_processor)
        return input_ids

    def _decode_bare(self, prompt: Prompt, processors: LogitsProcessorList) -> None:
        """Answer as the model is, after one steered step that says what differs."""
        cache = spare_cache(prompt)
        with self._guard(prompt) as receipt:
            self._note_divergence(prompt, steered_prefill(prompt).logits[:, -1])
        self._steerer.verify(receipt, output_tokens=1)
        give_cache(prompt, cache)
        prompt.bare = None
        for row in self._rows:
            row.steered = False
        with self._steerer.reading():
            for tokens in self._steps(prompt, processors):
                self._take(tokens, [True] * len(self._rows))

    def _guard(self, prompt: Prompt) -> AbstractContextManager[Receipt]:
        return self._steerer.guard(
            prompt_length=prompt.ids.shape[1],
            alpha=[row.strength for row in self._rows],
            rows=len(self._rows),
        )

    def _note_divergence(self, prompt: Prompt, steered: Tensor) -> None:
        if prompt.bare is None:
            return
        apart = divergence(prompt.bare, steered.float())
        for row, found in zip(self._rows, apart, strict=True):
            if row.compares and math.isfinite(found):
                row.divergence = found
        prompt.bare = None

    def _decode(self, prompt: Prompt, processors: LogitsProcessorList) -> None:
        steps = 0
        with self._guard(prompt) as receipt:
            for step, tokens in enumerate(self._steps(prompt, processors), start=1):
                self._take(tokens, self._steerer.check(receipt, output_tokens=step))
                steps = step
        # A sick row got none of its tokens, and every step was checked for the rest.
        if all(row.ending != "unhealthy" for row in self._rows):
            self._steerer.verify(receipt, output_tokens=steps)

    def _take(self, tokens: Sequence[int], healthy: Sequence[bool]) -> None:
        for row, token, sound in zip(self._rows, tokens, healthy, strict=True):
            if not sound:
                row.end("unhealthy")
            if row.alive:
                row.take(token, stops=self._stops)
        self._after_step()

    def _steps(
        self, prompt: Prompt, processors: LogitsProcessorList
    ) -> Iterator[list[int]]:
        """Yield the tokens of each step; the next step waits until they are taken."""
        model, ids = prompt.model, prompt.ids
        choosers = self._choosers(prompt)
        outputs = steered_prefill(prompt)
        self._note_divergence(prompt, outputs.logits[:, -1])
        kwargs = prompt.kwargs
        with transformers_api.decoding(model):
            while True:
                kwargs = transformers_api.after_pass(model, outputs, kwargs)
                logits = outputs.logits[:, -1].to(torch.float32, copy=True)
                # The whole prompt's logits would stay alive until the next step.
                del outputs
                alive = [row.alive for row in self._rows]
                scores = processors(ids, logits)  # type: ignore[arg-type]
                tokens = choose_tokens(choosers, scores, alive)
                yield tokens
                if not any(row.alive for row in self._rows):
                    return
                fed = torch.tensor(tokens, device=ids.device, dtype=ids.dtype)
                ids = torch.cat([ids, fed[:, None]], dim=-1)
                outputs = transformers_api.run_last_token(model, ids, kwargs)

    def _choosers(self, prompt: Prompt) -> list[Chooser]:
        device = self._loaded.device
        return [
            Chooser(row.sampling, ids, device, follows=row.follows)
            for row, ids in zip(self._rows, prompt.unpadded_ids(), strict=True)
        ]
