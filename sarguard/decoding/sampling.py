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

from sarguard.decoding.json_grammar import JsonAnswer
from sarguard.errors import InvalidRequestError

_MOST_SEED = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Say how tokens are chosen; the default is greedy."""

    temperature: float = 0.0
    """0 takes the likeliest token; above 0 samples."""
    top_p: float = 1.0
    top_k: int = 0
    """Sample from the likeliest so many tokens; 0 from all."""
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
        if self.seed is not None and not 0 <= self.seed < _MOST_SEED:
            raise InvalidRequestError(
                f"seed is {self.seed}: it has to be 0 or more and below 2**63"
            )


class Chooser:
    """Choose the tokens of one row, from its own random state."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        device: torch.device,
        *,
        follows: JsonAnswer | None = None,
    ) -> None:
        self._seen = list(prompt)
        self._device = device
        self._follows = follows
        self._warpers = _warpers(sampling)
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self._generator = torch.Generator(device=device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    @property
    def plain(self) -> bool:
        """Return whether the likeliest token is the choice, as the scores stand."""
        return self._generator is None and not self._warpers and self._follows is None

    def choose(self, scores: Tensor) -> int:
        """Choose from the scores of one row, float32, shape (vocabulary,)."""
        if self._follows is not None:
            scores = self._follows.allow(scores)
        seen = torch.tensor([self._seen], device=scores.device)
        warped = self._warpers(seen, scores[None])  # type: ignore[arg-type]
        if self._generator is None:
            token = int(warped.argmax(dim=-1))
        else:
            shares = warped.softmax(dim=-1).to(self._device)
            drawn = torch.multinomial(shares, 1, generator=self._generator)
            token = int(drawn)
        self._seen.append(token)
        if self._follows is not None:
            self._follows.take(token)
        return token


def choose_tokens(
    choosers: Sequence[Chooser], scores: Tensor, alive: Sequence[bool]
) -> list[int]:
    """Return each row's next token from scores of shape (rows, vocabulary)."""
    # One copy from the device for all rows that need no more than that.
    tokens: list[int] = scores.argmax(dim=-1).tolist()
    for index, chooser in enumerate(choosers):
        if alive[index] and not chooser.plain:
            tokens[index] = chooser.choose(scores[index])
    return tokens


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature > 0:
        if sampling.temperature != 1:
            found.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            found.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            found.append(TopPLogitsWarper(sampling.top_p))
    return found
