"""Asking a model many spoken questions at once, by the guarded decode."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sarguard.calibration_data import CalibrationPair
from sarguard.conversation import Turn
from sarguard.errors import ConfigurationError
from sarguard.evaluation.judge import Kind
from sarguard.generation import guarded_decode
from sarguard.models.families import family_of
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.steering.steerer import Steerer

# Families in which a clip's state does not hang on how long its neighbours in the
# batch are; in any other, only clips of equal length share a batch.
_MIXES_LENGTHS = frozenset({"audioflamingo3", "glmasr", "qwen2_audio"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """Hold one spoken request."""

    pair: str
    """Identifier that a harmful request shares with its harmless twin."""
    kind: Kind
    audio: NDArray[np.float32]
    """Mono at the model's rate, shape (samples,)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Hold questions that are asked together, ready for the model."""

    places: tuple[int, ...]
    """Where each row stands in the list of questions."""
    inputs: Mapping[str, Any]
    """Keyword arguments of generate()."""


def as_questions(pairs: Iterable[CalibrationPair]) -> list[Question]:
    """Return both requests of every pair, the harmful one first."""
    return [
        question
        for pair in pairs
        for question in (
            Question(pair=pair.id, kind="harmful", audio=pair.harmful),
            Question(pair=pair.id, kind="safe", audio=pair.safe),
        )
    ]


def make_batches(
    loaded: LoadedModel, questions: Sequence[Question], *, size: int, text: str = ""
) -> list[Batch]:
    """Prepare questions once, for every arm to use.

    Args:
        loaded: The model that will be asked.
        questions: What it will be asked, in any order.
        size: Most rows a batch.
        text: What accompanies every clip in writing.

    Raises:
        ConfigurationError: The size is below 1.
        AudioTooLongError: A clip is longer than the model hears.
    """
    if size < 1:
        raise ConfigurationError(f"a batch of {size} questions: give 1 or more")
    return [
        Batch(
            places=tuple(places),
            inputs=build_inputs(
                loaded,
                [
                    [Turn(role="user", text=text, audio=(questions[i].audio,))]
                    for i in places
                ],
            ),
        )
        for places in _group(loaded, questions, size)
    ]


def prefill(loaded: LoadedModel, batch: Batch) -> Batch:
    """Read a batch's prompts once, for many arms to answer.

    Steering starts at the last prompt token, so the cache of all that comes before
    is the same whatever the arm. In families whose cache cannot be continued, the
    batch is returned as it is.
    """
    if not family_of(loaded.model.config).shares_prefix:
        return batch
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    prefix = {
        **batch.inputs,
        "input_ids": ids[:, :-1],
        "attention_mask": mask[:, :-1],
        # As generate() counts them: padding takes no place.
        "position_ids": (mask[:, :-1].cumsum(dim=1) - 1).clamp(min=0),
    }
    with torch.no_grad():
        output = loaded.decoder.backbone(**prefix, use_cache=True)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "past_key_values": output.past_key_values,
    }
    return Batch(places=batch.places, inputs=inputs)


def answer_batch(
    loaded: LoadedModel,
    steerer: Steerer,
    batch: Batch,
    *,
    alpha: float,
    max_new_tokens: int,
) -> list[str]:
    """Return the greedy answer of every row.

    Raises:
        SteeringError: An answer cannot be proven to be steered.
    """
    # Decoding adds to a cache, and other arms need it as it was.
    inputs = {
        name: copy.deepcopy(value) if name == "past_key_values" else value
        for name, value in batch.inputs.items()
    }
    decoded = guarded_decode(
        loaded, steerer, inputs, alpha=alpha, max_new_tokens=max_new_tokens
    )
    return [
        loaded.tokenizer.decode(row.token_ids, skip_special_tokens=True).strip()
        for row in decoded
    ]


def _group(
    loaded: LoadedModel, questions: Sequence[Question], size: int
) -> Iterator[list[int]]:
    def length(place: int) -> int:
        return int(questions[place].audio.shape[0])

    # Neighbours in length waste the least padding.
    order = sorted(range(len(questions)), key=length)
    if getattr(loaded.model.config, "model_type", None) in _MIXES_LENGTHS:
        groups = [order]
    else:
        groups = [list(group) for _, group in groupby(order, key=length)]
    for group in groups:
        for start in range(0, len(group), size):
            yield group[start : start + size]
