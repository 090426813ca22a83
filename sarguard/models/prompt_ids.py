"""Prompt tokens of clips that were heard before, without hearing them again.

A processor makes features of every clip (18 ms for 30 s) only to count the tokens that
stand for it. Here it is shown one short stand-in for every clip, whose features are
made once; its tokens are then replaced by as many as the clip has.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sarguard.errors import UnsupportedModelError
from sarguard.models.inputs import audio_token_id, check_turns, write_prompts
from sarguard.models.loading import LoadedModel
from sarguard.models.untyped import Processor
from sarguard.types import Turn

_SECONDS = 0.5

# Weak: a copy of a processor goes when its model does.
_writers: weakref.WeakKeyDictionary[Any, PromptWriter] = weakref.WeakKeyDictionary()


class PromptWriter:
    """What writes a model's prompts with a stand-in for every clip."""

    def __init__(self, loaded: LoadedModel) -> None:
        rate = loaded.sampling_rate
        time = np.arange(int(rate * _SECONDS)) / rate
        self._clip: NDArray[np.float32] = (0.1 * np.sin(1400 * time)).astype(np.float32)
        # A copy, as other threads may be using the processor.
        processor = copy.copy(loaded.processor)
        processor.feature_extractor = _Memory(processor.feature_extractor)
        self._loaded = replace(loaded, processor=processor)
        turn = Turn(role="user", audio=(self._clip,))
        self._count = int(audio_places(loaded, self._write([turn])).sum())
        if self._count == 0:
            raise UnsupportedModelError(
                f"{loaded.name}: no token of a prompt stands for its clip"
            )

    def write(self, turns: Sequence[Turn], counts: Sequence[int]) -> Tensor:
        """Return the tokens of one conversation's prompt, int64 on the CPU.

        Args:
            turns: The conversation.
            counts: How many tokens stand for each of its clips, in order.

        Raises:
            UnsupportedModelError: The processor writes other prompts than expected.
        """
        ids = self._write([self._with_stand_ins(turn) for turn in turns])
        audio = audio_places(self._loaded, ids)
        if int(audio.sum()) != self._count * len(counts):
            raise UnsupportedModelError(
                f"{self._loaded.name}: a prompt with {len(counts)} clip(s) of "
                f"{self._count} token(s) has {int(audio.sum())}"
            )
        # Each token of a stand-in stands for none but the last, which stands for all.
        times = torch.ones_like(ids)
        places = audio.nonzero().flatten()
        times[places] = 0
        times[places[self._count - 1 :: self._count]] = torch.tensor(
            counts, dtype=times.dtype
        )
        return ids.repeat_interleave(times)

    def _with_stand_ins(self, turn: Turn) -> Turn:
        return replace(turn, audio=(self._clip,) * len(turn.audio))

    def _write(self, turns: Sequence[Turn]) -> Tensor:
        ids: Tensor = write_prompts(self._loaded, [turns])["input_ids"][0]
        return ids


def audio_places(loaded: LoadedModel, ids: Tensor) -> Tensor:
    """Return which tokens stand for audio, as booleans of the same shape.

    Raises:
        UnsupportedModelError: The model does not say which token does.
    """
    token = audio_token_id(loaded)
    if token is None:
        raise UnsupportedModelError(
            f"{loaded.name}: neither its config nor its processor names the token that "
            "stands for audio"
        )
    return torch.eq(ids, token)


def prompt_writer(loaded: LoadedModel) -> PromptWriter:
    """Return what writes the prompts of a model; it is made once."""
    found = _writers.get(loaded.model)
    if found is None:
        found = _writers[loaded.model] = PromptWriter(loaded)
    return found


def prompt_ids(
    loaded: LoadedModel, turns: Sequence[Turn], counts: Sequence[int]
) -> Tensor:
    """Return what `build_inputs` would give as `input_ids` for one conversation.

    Args:
        loaded: A model of a family whose clips are spliced.
        turns: The conversation.
        counts: How many tokens stand for each of its clips, in order.

    Raises:
        ConfigurationError: As for `build_inputs`.
        AudioTooLongError: A clip is longer than the model hears.
    """
    check_turns(loaded, turns)
    return prompt_writer(loaded).write(turns, counts)


class _Memory:
    """A feature extractor that makes the features of the same clips once."""

    def __init__(self, extractor: Processor) -> None:
        self._extractor = extractor
        self._make = functools.lru_cache(maxsize=64)(self._make_once)
        self._given: list[Any] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._extractor, name)

    def __call__(self, clips: Any, **options: Any) -> Any:  # noqa: ANN401
        # Every clip is the stand-in, so how many there are says which they are.
        self._given = clips
        made = self._make(len(clips), tuple(sorted(options.items())))
        return type(made)(dict(made))

    def _make_once(self, _count: int, options: tuple[tuple[str, Any], ...]) -> Any:  # noqa: ANN401
        return self._extractor(self._given, **dict(options))
