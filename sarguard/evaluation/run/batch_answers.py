"""Batches of questions, and a model's answers by the guarded decode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sarguard.calibration.states import shared_columns
from sarguard.decoding import JsonGrammar, Row, decode_rows, guarded_decode
from sarguard.decoding.clip_embeddings import splices
from sarguard.decoding.detokenizer import AnswerText
from sarguard.decoding.readings import RowReadings
from sarguard.decoding.request_reader import read_batch, read_beside, write_batch
from sarguard.decoding.session_memory import ClipCache
from sarguard.errors import ConfigurationError, NonFiniteActivationError
from sarguard.evaluation.arms.registry import OpenArm
from sarguard.evaluation.judges.rules import Kind
from sarguard.models.families import family_of
from sarguard.models.inputs import batch_key, build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import (
    cache_name,
    is_croppable,
    passed_cache,
    passing_cache,
    returned_cache,
)
from sarguard.serving.request import GenerationRequest
from sarguard.steering.residual import run_and_read
from sarguard.steering.steerer import Steerer
from sarguard.types import Turn

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with how much is done, how much there is, and what is at work."""


class Conversation(Protocol):
    """What can be asked."""

    def turns(self, rate: int) -> tuple[Turn, ...]:
        """Return the turns, their clips at a rate in hertz."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """One spoken request."""

    pair: str
    """Identifier of its matched pair."""
    kind: Kind
    audio: NDArray[np.float32]
    """Mono at the model's rate, shape (samples,)."""

    def turns(self, rate: int) -> tuple[Turn, ...]:
        """Return the request as a conversation; the rate is the clip's own."""
        return (Turn(role="user", audio=(self.audio,)),)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Questions that are answered together, ready for the model."""

    places: tuple[int, ...]
    """Where each row stands in the list of questions."""
    conversations: tuple[tuple[Turn, ...], ...]
    inputs: Mapping[str, Any]
    """Keyword arguments of generate()."""
    readings: tuple[RowReadings, ...] | None = None
    """What is scored of each row beside its prompt; None where it was not read."""
    states: Tensor | None = None
    """Clean last-token states, shape (L, rows, D), where they were read; the inputs
    then hold a cache of all but the last token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one row said, and how it was steered."""

    text: str
    """What the caller gets: it ends before a stop string."""
    tokens: int
    dose: float
    """Strength of steering; 0 where nothing was added."""
    score: float | None
    blocked: bool
    whole: str = ""
    """What the model said beyond a stop string too; empty where none was found."""


def make_batches(
    loaded: LoadedModel, questions: Sequence[Conversation], *, size: int
) -> list[Batch]:
    """Prepare questions once, for every arm to use.

    Args:
        loaded: The model that will be asked.
        questions: What it will be asked, in any order.
        size: Most rows a batch, and most clips of all its rows, but for one row that
            has more alone.

    Raises:
        ConfigurationError: The size is below 1.
        AudioTooLongError: A clip is longer than the model hears.
    """
    return list(iter_batches(loaded, questions, size=size))


def iter_batches(
    loaded: LoadedModel,
    questions: Sequence[Conversation],
    *,
    size: int,
    clips: ClipCache | None = None,
) -> Iterator[Batch]:
    """Yield the batches of `make_batches`, each prepared when it is its turn.

    Arguments and errors are those of `make_batches`.

    Args:
        loaded: The model, with no steerer attached where clips are given.
        questions: As for `make_batches`.
        size: As for `make_batches`.
        clips: Where the family allows it, batches are read with these at once, and
            what is heard is added.
    """
    if size < 1:
        raise ConfigurationError(f"a batch of {size} questions: give 1 or more")
    asked = [question.turns(loaded.sampling_rate) for question in questions]
    for places in _group(loaded, asked, size):
        if clips is not None and splices(loaded):
            yield _read_batch(loaded, asked, places, clips)
        else:
            yield _batch(loaded, asked, places)


def with_instruction(loaded: LoadedModel, batch: Batch, instruction: str) -> Batch:
    """Return a batch with an instruction before what accompanies each clip."""
    asked = [_instructed(turns, instruction) for turns in batch.conversations]
    inputs = build_inputs(loaded, asked)
    return replace(
        batch, conversations=tuple(asked), inputs=inputs, readings=None, states=None
    )


def with_readings(loaded: LoadedModel, batch: Batch) -> Batch:
    """Return a batch with what a dose that depends on the request is decided from.

    Args:
        loaded: The model, free to run.
        batch: What is to be read.
    """
    if batch.readings is not None:
        return batch
    return replace(batch, readings=read_beside(loaded, batch.conversations))


def prefill(loaded: LoadedModel, batch: Batch, *, like: Batch | None = None) -> Batch:
    """Prefill a batch's prompts once, for many arms to answer.

    Steering starts at the last prompt token, so the cache of all that comes before
    is the same whatever the arm. In families whose cache cannot be continued, the
    batch is returned as it is.

    Args:
        loaded: The model, with no steerer attached.
        batch: What is to be prefilled.
        like: A batch that was prefilled already; where both begin alike, clips and
            all, that part of its cache is taken over.
    """
    if batch.states is not None or not family_of(loaded.model.config).shares_prefix:
        return batch
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    # As generate() counts them: padding takes no place.
    places = (mask[:, :-1].cumsum(dim=1) - 1).clamp(min=0)
    prefix = dict(batch.inputs)
    shared = 0
    if like is not None and is_croppable(passed_cache((), like.inputs)):
        # A cache lacks its prompt's last column, and one more has to be left to run.
        begin = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1]}
        shared = shared_columns(loaded, [begin, like.inputs])
    if like is not None and shared:
        cache = copy.deepcopy(like.inputs[cache_name()])
        # A negative number is how many columns are taken off the end.
        cache.crop(shared - cache.get_seq_length())
        # Without the clip's features: all of its tokens are in what is shared.
        prefix = passing_cache(cache)
    prefix |= {
        "input_ids": ids[:, shared:-1],
        "attention_mask": mask[:, :-1],
        "position_ids": places[:, shared:],
    }
    with torch.no_grad():
        output = loaded.decoder.backbone(**prefix, use_cache=True)
    # Features are left out here too: the clip is in the cache already.
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        **passing_cache(returned_cache(output)),
    }
    return replace(batch, inputs=inputs)


def read_states(loaded: LoadedModel, batch: Batch) -> Tensor:
    """Return every row's clean last-token states, shape (L, rows, D).

    Of a batch that was prefilled, only the last token is run.
    """
    if batch.states is not None:
        return batch.states
    inputs = _fresh(batch)
    if passed_cache((), inputs) is not None:
        inputs |= {
            "input_ids": inputs["input_ids"][:, -1:],
            # The last token's place in its row, padding not counted.
            "position_ids": inputs["attention_mask"].sum(dim=1, keepdim=True) - 1,
        }
    states, _ = run_and_read(loaded.decoder, inputs, use_cache=True)
    return states


def answer_batch(
    loaded: LoadedModel,
    steerer: Steerer,
    batch: Batch,
    *,
    alpha: float,
    max_new_tokens: int,
) -> list[str]:
    """Return the greedy answer of every row, all steered alike.

    Raises:
        SteeringError: An answer cannot be proven to be steered.
    """
    decoded = guarded_decode(
        loaded, steerer, _fresh(batch), alpha=alpha, max_new_tokens=max_new_tokens
    )
    return [_text(loaded, row.token_ids) for row in decoded]


def answer_arm(
    loaded: LoadedModel,
    arm: OpenArm,
    batch: Batch,
    *,
    max_new_tokens: int,
    requests: Sequence[GenerationRequest] | None = None,
) -> list[Answer]:
    """Return the answer of every row in one arm, whose steerer is attached.

    Args:
        loaded: The model.
        arm: How the rows are steered.
        batch: What is asked.
        max_new_tokens: Most tokens of an answer.
        requests: Each row's options; greedy, with that limit, if not given.

    Raises:
        SteeringError: An answer cannot be proven to be steered.
    """
    if arm.dose.reads_states:
        with arm.steerer.bare():
            batch = with_readings(loaded, batch)
    asked = requests or _plain_requests(batch.inputs, max_new_tokens)
    rows = decode_arm(
        loaded,
        arm,
        _fresh(batch),
        readings=batch.readings,
        states=batch.states,
        max_new_tokens=max_new_tokens,
        requests=asked,
    )
    if any(row.ending == "unhealthy" for row in rows):
        raise NonFiniteActivationError(
            "a steered state holds NaN or infinity: lower the dose, or load the model "
            "in bfloat16 or float32"
        )
    return [
        _answer(loaded, arm, row, request.stop)
        for row, request in zip(rows, asked, strict=True)
    ]


def decode_arm(
    loaded: LoadedModel,
    arm: OpenArm,
    inputs: Mapping[str, Any],
    *,
    max_new_tokens: int,
    requests: Sequence[GenerationRequest] | None = None,
    readings: Sequence[RowReadings] | None = None,
    states: Tensor | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Return every row of some inputs, decoded in an arm whose steerer is attached.

    Args:
        loaded: The model.
        arm: How the rows are steered.
        inputs: As for `decode_rows`; a cache among them is used up.
        max_new_tokens: Most tokens of an answer.
        requests: As for `answer_arm`.
        readings: As for `decode_rows`, as the two that follow.
        states: The inputs' clean states.
        after_step: Called after each step.

    Raises:
        SteeringError: An answer cannot be proven to be steered.
    """
    rows = make_rows(loaded, arm, requests or _plain_requests(inputs, max_new_tokens))
    decode_rows(
        loaded,
        arm.steerer,
        inputs,
        rows,
        score=arm.score,
        readings=readings,
        states=states,
        after_step=after_step,
    )
    return rows


def make_rows(
    loaded: LoadedModel, arm: OpenArm, requests: Sequence[GenerationRequest]
) -> list[Row]:
    """Return the rows of requests in an arm, as a client's engine makes them.

    Raises:
        MissingDependencyError: A request has a schema, and llguidance is missing.
    """
    grammars: dict[int, JsonGrammar] = {}
    rows = []
    for request in requests:
        asked = arm.asked(request)
        schema = asked.json_schema
        if schema is not None and id(schema) not in grammars:
            grammars[id(schema)] = JsonGrammar.compile(loaded, schema)
        rows.append(
            Row(
                dose=asked.dose,
                max_new_tokens=asked.max_new_tokens,
                sampling=asked.sampling,
                # A matcher each: it moves with its own row's answer.
                matcher=None
                if schema is None
                else grammars[id(schema)].matcher(asked.max_new_tokens),
            )
        )
    return rows


def _plain_requests(
    inputs: Mapping[str, Any], max_new_tokens: int
) -> list[GenerationRequest]:
    plain = GenerationRequest(max_new_tokens=max_new_tokens)
    return [plain] * len(inputs["input_ids"])


def _answer(loaded: LoadedModel, arm: OpenArm, row: Row, stop: Sequence[str]) -> Answer:
    decision = row.decision
    whole = _text(loaded, row.token_ids)
    text, cut = _until_stop(loaded, row.token_ids, stop) if stop else (whole, False)
    return Answer(
        text=text,
        whole=whole if cut else "",
        tokens=row.output_tokens,
        dose=row.alpha if arm.steers and row.steered else 0.0,
        score=None if decision is None else decision.score,
        blocked=row.ending == "blocked",
    )


def _until_stop(
    loaded: LoadedModel, tokens: Sequence[int], stop: Sequence[str]
) -> tuple[str, bool]:
    """Return an answer up to the first stop string, and whether there was one."""
    said = AnswerText(loaded.tokenizer, stop)
    for token in tokens:
        said.push(token)
    said.finish()
    return said.text, said.stopped


def _text(loaded: LoadedModel, tokens: Sequence[int]) -> str:
    return str(loaded.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _fresh(batch: Batch) -> dict[str, Any]:
    # Decoding adds to a cache, and other arms need it as it was.
    return {
        name: copy.deepcopy(value) if name == cache_name() else value
        for name, value in batch.inputs.items()
    }


def _batch(
    loaded: LoadedModel, asked: Sequence[tuple[Turn, ...]], places: Sequence[int]
) -> Batch:
    conversations = tuple(asked[place] for place in places)
    return Batch(
        places=tuple(places),
        conversations=conversations,
        inputs=build_inputs(loaded, conversations),
    )


def _read_batch(
    loaded: LoadedModel,
    asked: Sequence[tuple[Turn, ...]],
    places: Sequence[int],
    clips: ClipCache,
) -> Batch:
    conversations = tuple(asked[place] for place in places)
    written = write_batch(loaded, conversations, memories=[clips] * len(places))
    read = read_batch(loaded, written)
    return Batch(
        places=tuple(places),
        conversations=conversations,
        inputs=read.inputs,
        readings=read.readings,
        states=read.states,
    )


def _instructed(turns: tuple[Turn, ...], instruction: str) -> tuple[Turn, ...]:
    last = turns[-1]
    text = f"{instruction} {last.text}" if last.text else instruction
    return (*turns[:-1], replace(last, text=text))


def _group(
    loaded: LoadedModel, asked: Sequence[tuple[Turn, ...]], size: int
) -> Iterator[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    # Neighbours in length waste the least padding.
    for place in sorted(range(len(asked)), key=lambda place: _length(asked[place])):
        groups.setdefault(batch_key(loaded, asked[place]), []).append(place)
    for places in groups.values():
        yield from _within_size(asked, places, size)


def _within_size(
    asked: Sequence[tuple[Turn, ...]], places: Sequence[int], size: int
) -> Iterator[list[int]]:
    """Yield places in batches of that many rows and clips.

    The encoder hears all clips of a batch at once, each as long as it hears at most:
    its memory grows with clips, not with rows.
    """
    batch: list[int] = []
    clips = 0
    for place in places:
        own = sum(len(turn.audio) for turn in asked[place])
        if batch and (len(batch) == size or clips + own > size):
            yield batch
            batch, clips = [], 0
        batch.append(place)
        clips += own
    if batch:
        yield batch


def _length(turns: Sequence[Turn]) -> int:
    return sum(int(clip.shape[0]) for turn in turns for clip in turn.audio)
