"""The decode loop: prefill, dose, then one checked step after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from sarguard.decoding.generation_config import configure, stop_tokens
from sarguard.decoding.prefill import (
    Prompt,
    clean_states,
    decide_doses,
    steered_prefill,
)
from sarguard.decoding.readings import RowReadings, Score
from sarguard.decoding.row import Row
from sarguard.decoding.sampling import Sampling, TokenSampler, sample_tokens
from sarguard.errors import NonFiniteActivationError
from sarguard.models import transformers_api
from sarguard.models.loading import LoadedModel
from sarguard.models.untyped import PretrainedModel
from sarguard.steering.dose import DoseSpec
from sarguard.steering.steerer import HookReceipt, Steerer, alpha_per_row


def decode_rows(
    loaded: LoadedModel,
    steerer: Steerer,
    inputs: Mapping[str, Any],
    rows: Sequence[Row],
    *,
    score: Score | None = None,
    readings: Sequence[RowReadings] | None = None,
    states: Tensor | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Decode until every row has ended, and prove each token before it is taken.

    Args:
        loaded: The model.
        steerer: Attached to that model.
        inputs: What `build_inputs` gave.
        rows: One a row of the inputs; filled in.
        score: The gate, where a dose depends on the request.
        readings: What was read of each request beside its prompt, for the gate.
        states: The prompts' clean last-token states, shape (layers, rows, width),
            where they were read; the inputs then hold a cache of all tokens but the
            last of each row.
        after_step: Called when a step's tokens are in their rows. It may end rows;
            if it raises, decoding stops and the model is free.

    Raises:
        ConfigurationError: The model's generation config asks for speculative or
            cacheless decoding, or alpha is out of range.
        SteeringError: From here on nothing can be proven to be steered; tokens that
            are in the rows already were.
    """
    config = configure(loaded, max(row.max_new_tokens for row in rows))
    loop = _Loop(loaded, steerer, rows, score, readings, states, after_step)
    transformers_api.run_loop(loaded.model, inputs, config, loop)


def guarded_decode(
    loaded: LoadedModel,
    steerer: Steerer,
    inputs: Mapping[str, Any],
    *,
    alpha: float | Sequence[float] | Tensor,
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> list[Row]:
    """Decode an answer for every row with a constant dose, and prove it was steered.

    Args:
        loaded: The model.
        steerer: Attached to that model.
        inputs: What `build_inputs` gave.
        alpha: Coefficient, one for all rows or one a row; above 0 and finite.
        max_new_tokens: Maximum number of tokens a row.
        sampling: How tokens are chosen; greedy if not given.

    Raises:
        InvalidRequestError: `max_new_tokens` is below 1.
        ConfigurationError: As for `decode_rows`.
        SteeringError: An answer cannot be proven to be steered; none is returned.
    """
    alphas = alpha_per_row(alpha, inputs["input_ids"].shape[0]).tolist()
    rows = [
        Row(
            dose=DoseSpec.constant(value),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
        )
        for value in alphas
    ]
    decode_rows(loaded, steerer, inputs, rows)
    if any(row.ending == "unhealthy" for row in rows):
        raise NonFiniteActivationError(
            "a steered state holds NaN or infinity: lower alpha, or load the model in "
            "bfloat16 or float32"
        )
    return rows


def divergence(ours: Tensor, theirs: Tensor) -> list[float]:
    """Return each row's Jensen-Shannon divergence in bits, from 0 to 1.

    Args:
        ours: Logits, shape (rows, vocabulary).
        theirs: Other logits of the same shape.
    """
    p, q = (logits.double().softmax(dim=-1) for logits in (ours, theirs))
    # H(m) - (H(p) + H(q)) / 2 is zero for equals but for rounding: hence the clamp.
    # entr(0) is 0, where -p log p would be NaN.
    h_p, h_q, h_m = (torch.special.entr(x).sum(dim=-1) for x in (p, q, (p + q) / 2))
    found: list[float] = ((h_m - (h_p + h_q) / 2) / math.log(2)).clamp(0, 1).tolist()
    return found


class _Loop:
    """A stand-in for the library's sampling loop; the library prepared the rest."""

    def __init__(
        self,
        loaded: LoadedModel,
        steerer: Steerer,
        rows: Sequence[Row],
        score: Score | None,
        readings: Sequence[RowReadings] | None,
        states: Tensor | None,
        after_step: Callable[[], None],
    ) -> None:
        self._loaded = loaded
        self._steerer = steerer
        self._rows = rows
        self._score = score
        self._readings = readings
        self._states = states
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
        # `stopping_criteria` are left aside: a row ends by its own limit, its stop
        # tokens, a check or its caller.
        prompt = Prompt(
            model=model, ids=input_ids, config=generation_config, kwargs=model_kwargs
        )
        states = clean_states(
            self._loaded, self._steerer, prompt, self._rows, self._states
        )
        decide_doses(self._rows, states, self._score, self._readings)
        # Where every row is blocked nothing is decoded.
        if any(row.alive for row in self._rows):
            if all(row.bare for row in self._rows):
                self._decode_bare(prompt, logits_processor)
            else:
                self._decode(prompt, logits_processor)
        return input_ids

    def _decode_bare(self, prompt: Prompt, processors: LogitsProcessorList) -> None:
        """Answer unsteered, after one steered step that measures the difference."""
        # The steered step adds the last token's steered keys and values to the cache,
        # which a bare answer must not read.
        cache = prompt.copy_cache()
        with self._guard(prompt) as receipt:
            self._note_divergence(prompt, steered_prefill(prompt).logits[:, -1])
        self._steerer.verify(receipt, output_tokens=1)
        prompt.set_cache(cache)
        for row in self._rows:
            row.steered = False
        with self._steerer.bare():
            for tokens in self._steps(prompt, processors):
                self._take(tokens, [True] * len(self._rows))

    def _guard(self, prompt: Prompt) -> AbstractContextManager[HookReceipt]:
        return self._steerer.guard(
            prompt_length=prompt.ids.shape[1],
            alpha=[row.alpha for row in self._rows],
            rows=len(self._rows),
        )

    def _note_divergence(self, prompt: Prompt, steered: Tensor) -> None:
        if prompt.bare_logits is None:
            return
        apart = divergence(prompt.bare_logits, steered.float())
        for row, found in zip(self._rows, apart, strict=True):
            if row.dose.shadow and math.isfinite(found):
                row.divergence = found
        prompt.bare_logits = None

    def _decode(self, prompt: Prompt, processors: LogitsProcessorList) -> None:
        steps = 0
        with self._guard(prompt) as receipt:
            for step, tokens in enumerate(self._steps(prompt, processors), start=1):
                # Before any token leaves: what is in a row was proven.
                self._take(tokens, self._steerer.check(receipt, output_tokens=step))
                steps = step
        # An unhealthy row got none of its tokens, and would fail the others here;
        # every step was checked for them.
        if all(row.ending != "unhealthy" for row in self._rows):
            self._steerer.verify(receipt, output_tokens=steps)

    def _take(self, tokens: Sequence[int], healthy: Sequence[bool]) -> None:
        for row, token, finite in zip(self._rows, tokens, healthy, strict=True):
            # Before the token: `end` keeps the first reason, and a row with NaN takes
            # nothing.
            if not finite:
                row.end("unhealthy")
            if row.alive:
                row.take(token, stops=self._stops)
        self._after_step()

    def _steps(
        self, prompt: Prompt, processors: LogitsProcessorList
    ) -> Iterator[list[int]]:
        """Yield the tokens of each step; the next step waits until they are taken."""
        model, ids = prompt.model, prompt.ids
        samplers = self._samplers(prompt)
        outputs = steered_prefill(prompt)
        self._note_divergence(prompt, outputs.logits[:, -1])
        kwargs = prompt.kwargs
        with transformers_api.decoding(model):
            while True:
                # Before `outputs` goes, as the cache is taken out of it.
                kwargs = transformers_api.after_pass(model, outputs, kwargs)
                # Copied even if they are float32: a view would keep the logits of all
                # positions, and processors write into what they are given.
                logits = outputs.logits[:, -1].to(torch.float32, copy=True)
                # The whole prompt's logits would stay alive until the next step.
                del outputs
                alive = [row.alive for row in self._rows]
                scores = processors(ids, logits)  # type: ignore[arg-type]
                tokens = sample_tokens(samplers, scores, alive)
                yield tokens
                if not any(row.alive for row in self._rows):
                    return
                # Rows that have ended are fed on: a batch keeps its shape.
                fed = torch.tensor(tokens, device=ids.device, dtype=ids.dtype)
                # The whole sequence although one token is run: logits processors read
                # it.
                ids = torch.cat([ids, fed[:, None]], dim=-1)
                outputs = transformers_api.run_last_token(model, ids, kwargs)

    def _samplers(self, prompt: Prompt) -> list[TokenSampler]:
        # Prompts without padding: a repetition penalty would count it as text.
        device = self._loaded.device
        return [
            TokenSampler(
                row.sampling,
                ids,
                device,
                matcher=row.matcher,
                greedy_tokens=row.greedy_tokens,
            )
            for row, ids in zip(self._rows, prompt.unpadded_ids(), strict=True)
        ]
