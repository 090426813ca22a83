"""How the next token is chosen, the same whether a row is alone or in a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sarguard.decoding.json_grammar import JsonMatcher
from sarguard.errors import InvalidRequestError

_MAX_SEED = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; the default is greedy."""

    temperature: float = 0.0
    """0 takes the likeliest token; above 0 samples."""
    top_p: float = 1.0
    top_k: int = 0
    """Number of likeliest tokens to sample from; 0 samples from all."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt and the answer become less likely."""
    seed: int | None = None
    """Makes sampling repeatable; the caller's random state is left alone."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidRequestError(
                f"temperature is {self.temperature}: it has to be finite and 0 or more"
            )
        if not 0 < self.top_p <= 1:
            raise InvalidRequestError(
                f"top_p is {self.top_p}: it has to be above 0 and at most 1"
            )
        if self.top_k < 0:
            raise InvalidRequestError(f"top_k is {self.top_k}: it has to be 0 or more")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InvalidRequestError(
                f"repetition_penalty is {self.repetition_penalty}: it has to be finite "
                "and above 0"
            )
        if self.seed is not None and not 0 <= self.seed < _MAX_SEED:
            raise InvalidRequestError(
                f"seed is {self.seed}: it has to be 0 or more and below 2**63"
            )


class TokenSampler:
    """What chooses the tokens of one row, with a random state of its own.

    One generator a row, so that a seeded answer is the same in any batch.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        device: torch.device,
        *,
        matcher: JsonMatcher | None = None,
        greedy_tokens: int = 0,
    ) -> None:
        """Prepare to choose.

        Args:
            sampling: How tokens are chosen.
            prompt: Its tokens, without padding.
            device: Where the random state is kept.
            matcher: What the answer has to match; None where it may say anything.
            greedy_tokens: How many tokens are the likeliest ones before any is drawn.
        """
        self._seen = list(prompt)
        self._device = device
        self._matcher = matcher
        self._greedy_left = greedy_tokens
        # The gate has them chosen greedily where it did not find the request harmless.
        self._suspect = greedy_tokens > 0
        self._penalties = _penalties(sampling)
        self._warpers = _warpers(sampling)
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self._generator = torch.Generator(device=device)
            # A new generator always begins with the same seed, so that without this
            # every unseeded answer would draw alike.
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    @property
    def is_argmax(self) -> bool:
        """Return whether the choice is the likeliest token, the scores unchanged."""
        return self._generator is None and not self._penalties and self._matcher is None

    def sample(self, scores: Tensor) -> int:
        """Choose from the scores of one row, float32, shape (vocabulary,)."""
        # Before top-k and top-p, which then choose among tokens that may follow.
        if self._matcher is not None:
            scores = self._matcher.mask(scores, suspect=self._suspect)
        seen = torch.tensor([self._seen], device=scores.device)
        penalised = self._penalties(seen, scores[None])  # type: ignore[arg-type]
        if self._greedy_left > 0:
            # Without the penalty: a caller who writes a refusal's words into the prompt
            # would take them from the answer. Before the temperature: a very small one
            # makes several scores infinite. Nothing is drawn, so that the random state
            # begins after these tokens.
            token = int(scores.argmax(dim=-1))
            self._greedy_left -= 1
        elif self._generator is None:
            token = int(penalised.argmax(dim=-1))
        else:
            warped = self._warpers(seen, penalised)  # type: ignore[arg-type]
            # The generator is on this device, and the logits may be on another one.
            shares = warped.softmax(dim=-1).to(self._device)
            drawn = torch.multinomial(shares, 1, generator=self._generator)
            token = int(drawn)
        self._seen.append(token)
        if self._matcher is not None:
            self._matcher.accept(token)
        return token


def sample_tokens(
    samplers: Sequence[TokenSampler], scores: Tensor, alive: Sequence[bool]
) -> list[int]:
    """Return each row's next token from scores of shape (rows, vocabulary)."""
    # One copy from the device serves every row that decodes greedily.
    tokens: list[int] = scores.argmax(dim=-1).tolist()
    for index, sampler in enumerate(samplers):
        if alive[index] and not sampler.is_argmax:
            tokens[index] = sampler.sample(scores[index])
    return tokens


def _penalties(sampling: Sampling) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    return found


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    # After the penalties, in the order of transformers: temperature, top-k, top-p.
    found = LogitsProcessorList()
    if sampling.temperature > 0:
        if sampling.temperature != 1:
            found.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            found.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            found.append(TopPLogitsWarper(sampling.top_p))
    return found
