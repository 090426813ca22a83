"""Reading requests before they are answered: in their prompt, and in canonical ones.

Where a family takes a clip's embeddings in any prompt, the encoder runs once a clip,
and a canonical prompt that begins as the conversation does goes on from its cache.
Elsewhere each canonical prompt is a prompt of its own, features and all.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sarguard.audio.silence import SpeechSpan, speech_span
from sarguard.decoding.clip_embeddings import (
    ClipColumns,
    ClipInputs,
    clip_digest,
    embed_clips,
    long_silence,
    new_key,
    prepare_clips,
    splices,
)
from sarguard.decoding.generation_config import padding_token
from sarguard.decoding.readings import (
    Reading,
    ReadStates,
    RowReadings,
    canonical_readings,
    is_finite,
    place_kind,
    same_turn,
    window_start,
)
from sarguard.decoding.session_memory import SessionMemory, reading_digest
from sarguard.decoding.spliced_prompt import (
    KeptPrefix,
    PassResult,
    SplicedPrompt,
    left_padded,
    run_prompts,
    splice_prompt,
)
from sarguard.errors import SteeringNotAppliedError
from sarguard.models.inputs import (
    audio_token_counts,
    batch_key,
    build_inputs,
    check_turns,
    takes_clips,
)
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import is_croppable, passing_cache
from sarguard.models.untyped import KeyValueCache
from sarguard.steering.dose import ReadingKind
from sarguard.steering.residual import last_states
from sarguard.types import Turn

_MAX_ROWS = 16
_MAX_TOKENS = 4096
"""Most columns of one pass over canonical prompts, padding included."""
_PASS_COST = {"cpu": 32}
"""What a pass costs beside its columns, in columns: the weights are read once for all
of them. Measured on a CPU; accelerators compute more for each byte that they read."""
_ACCELERATOR_PASS_COST = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WrittenReading:
    """A canonical reading as a prompt."""

    kind: ReadingKind
    digest: bytes
    prompt: SplicedPrompt | None
    """None where the session's memory has its states."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WrittenRow:
    """One conversation whose clips are spliced."""

    prompt: SplicedPrompt
    readings: tuple[WrittenReading, ...]
    kind: ReadingKind
    """The kind of the conversation as it stands."""
    clips: tuple[ClipColumns, ...]
    memory: SessionMemory | None
    goes_on: frozenset[bytes]
    """Digests of the readings that the session's next request goes on from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _AskedReading:
    """A reading that is to be run."""

    prompt: SplicedPrompt
    prefix: KeptPrefix | None
    """What of it was read already."""
    kept: bool
    """Whether its keys and values are wanted too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _FoundReading:
    states: Tensor
    """Shape (layers, width)."""
    prefix: KeptPrefix | None = None
    """All of its columns, where they are to be kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WrittenBatch:
    """Conversations that can share a batch, written as prompts."""

    conversations: tuple[tuple[Turn, ...], ...]
    scored: bool = True
    """Whether canonical readings are wanted."""
    rows: tuple[WrittenRow, ...] = ()
    """Empty in families whose clips cannot be spliced."""
    clips: ClipInputs | None = None
    """Clips of the rows that were not heard before."""
    inputs: dict[str, Tensor] | None = None
    """What `build_inputs` gave, where there are no rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadBatch:
    """What is known of a batch before its first token is chosen."""

    inputs: Mapping[str, Any]
    """Keyword arguments of generate(), with a cache of all but the last column where
    the conversations were read."""
    readings: tuple[RowReadings, ...] | None = None
    """What was read beside the conversations; None where nothing was."""
    states: Tensor | None = None
    """Clean last-token states of the conversations, shape (layers, rows, width); None
    where they were not read."""


def write_batch(
    loaded: LoadedModel,
    conversations: Sequence[Sequence[Turn]],
    *,
    scored: bool = True,
    memories: Sequence[SessionMemory | None] | None = None,
) -> WrittenBatch:
    """Write conversations and their canonical readings; run nothing.

    Args:
        loaded: The model to speak to.
        conversations: One a row.
        scored: Whether they will be scored; otherwise nothing is read beside them.
        memories: What is kept of each row's session; by default nothing.

    Raises:
        ConfigurationError: As for `build_inputs`.
        AudioError: As for `build_inputs`.
    """
    asked = tuple(tuple(turns) for turns in conversations)
    kept = tuple(memories or [None] * len(asked))
    spliced = scored or any(memory is not None for memory in kept)
    if not asked or not spliced or not splices(loaded):
        inputs = build_inputs(loaded, asked)
        return WrittenBatch(conversations=asked, scored=scored, inputs=inputs)
    for turns in asked:
        check_turns(loaded, turns)
    # Digests of two rows never meet: whoever shares a batch learns nothing of the
    # others by what is faster.
    keys = [new_key() if memory is None else memory.key for memory in kept]
    heard = [_digests(turns, key) for turns, key in zip(asked, keys, strict=True)]
    clips = _new_clips(loaded, asked, heard, kept)
    known = {columns.digest: columns for columns in clips.columns}
    for memory in kept:
        if memory is not None:
            known |= {digest: clip for digest, (clip, _) in memory.clips.items()}
    rows = [
        _write_row(
            loaded,
            turns,
            {place: known[digest] for place, digest in digests.items()},
            key,
            memory,
            scored=scored,
        )
        for turns, digests, key, memory in zip(asked, heard, keys, kept, strict=True)
    ]
    return WrittenBatch(
        conversations=asked, scored=scored, rows=tuple(rows), clips=clips
    )


def prompt_sizes(loaded: LoadedModel, written: WrittenBatch) -> list[tuple[int, int]]:
    """Return how many tokens each prompt has, and how many of them are audio."""
    if written.inputs is not None:
        lengths = written.inputs["attention_mask"].sum(dim=1).tolist()
        counts = audio_token_counts(loaded, written.inputs)
        return [(int(n), audio) for n, audio in zip(lengths, counts, strict=True)]
    return [
        (len(row.prompt), sum(len(piece.part) for piece in row.prompt.pieces))
        for row in written.rows
    ]


def read_batch(loaded: LoadedModel, written: WrittenBatch) -> ReadBatch:
    """Read a batch and its canonical readings, unsteered.

    Args:
        loaded: The model, free to run.
        written: What `write_batch` gave.

    Raises:
        SteeringNotAppliedError: Embeddings do not reach the decoder as expected.
    """
    if written.clips is None:
        readings = None
        if written.scored:
            readings = _read_apart(loaded, written.conversations)
        return ReadBatch(inputs=written.inputs or {}, readings=readings)
    embeddings = embed_clips(loaded, written.clips)
    for row in written.rows:
        if row.memory is not None:
            embeddings |= {d: columns for d, (_, columns) in row.memory.clips.items()}
    passes = _run_rows(loaded, written.rows, embeddings)
    read = _read_spliced(loaded, written.rows, embeddings, passes)
    readings = None
    if written.scored:
        readings = tuple(
            _row_readings(row, found)
            for row, found in zip(written.rows, read, strict=True)
        )
    for row, found, (done, place) in zip(written.rows, read, passes, strict=True):
        _remember(row, found, embeddings, done, place)
    if not all(is_croppable(done.cache) for done, _ in passes):
        inputs = build_inputs(loaded, written.conversations)
        return ReadBatch(inputs=inputs, readings=readings)
    prompts = [row.prompt for row in written.rows]
    return ReadBatch(
        inputs={
            **_padded(loaded, prompts),
            **passing_cache(_without_last(prompts, passes)),
        },
        readings=readings,
        states=torch.stack([done.states[:, place] for done, place in passes], dim=1),
    )


def read_beside(
    loaded: LoadedModel, conversations: Sequence[Sequence[Turn]]
) -> tuple[RowReadings, ...]:
    """Return what is read of conversations beside their own prompts.

    Args:
        loaded: The model, free to run.
        conversations: They can share a batch.

    Raises:
        ConfigurationError: As for `build_inputs`.
        AudioError: As for `build_inputs`.
    """
    if not splices(loaded):
        return _read_apart(loaded, conversations)
    read = read_batch(loaded, write_batch(loaded, conversations))
    return read.readings or ()


def read_canonical(
    loaded: LoadedModel,
    conversations: Sequence[Sequence[Turn]],
    *,
    batch_size: int = 8,
    memory: SessionMemory | None = None,
) -> list[tuple[ReadStates, ...]]:
    """Return the states of everything that is scored of each conversation.

    The canonical readings and, last, the conversation as it stands, where it differs
    from all of them. Its answers and doses come from the same states.

    Args:
        loaded: The model, with no steerer attached, or inside `Steerer.bare`.
        conversations: Each ends with a user turn.
        batch_size: Most conversations that are read together.
        memory: What conversations share, so that a clip of several is encoded once;
            by default each is read for itself.

    Raises:
        ConfigurationError: As for `build_inputs`.
        AudioError: As for `build_inputs`.
    """
    found: dict[int, tuple[ReadStates, ...]] = {}
    for places in _batches(loaded, conversations, batch_size):
        written = write_batch(
            loaded,
            [conversations[place] for place in places],
            memories=[memory] * len(places),
        )
        read = read_batch(loaded, written)
        states = read.states
        if states is None:
            states = last_states(loaded.decoder, read.inputs)
        for row, place in enumerate(places):
            beside = (read.readings or ())[row]
            found[place] = beside.with_place(states[:, row])
    return [found[place] for place in range(len(conversations))]


def _digests(turns: Sequence[Turn], key: bytes) -> dict[int, bytes]:
    """Return the digest of each clip, by the `id` of its array."""
    return {id(clip): clip_digest(clip, key) for turn in turns for clip in turn.audio}


def _new_clips(
    loaded: LoadedModel,
    conversations: Sequence[Sequence[Turn]],
    heard: Sequence[Mapping[int, bytes]],
    kept: Sequence[SessionMemory | None],
) -> ClipInputs:
    """Prepare each distinct clip once that no session's memory has."""
    known = {d for memory in kept if memory is not None for d in memory.clips}
    fresh = {
        digests[id(clip)]: clip
        for turns, digests in zip(conversations, heard, strict=True)
        for turn in turns
        for clip in turn.audio
        if digests[id(clip)] not in known
    }
    return prepare_clips(loaded, fresh)


def _write_row(
    loaded: LoadedModel,
    turns: Sequence[Turn],
    clips: Mapping[int, ClipColumns],
    key: bytes,
    memory: SessionMemory | None,
    *,
    scored: bool,
) -> WrittenRow:
    readings: dict[bytes, WrittenReading] = {}
    # A prompt of one turn may be the conversation itself, which its tokens tell.
    several = sum(turn.role != "system" for turn in turns) > 1
    known = memory.states if memory is not None and several else {}

    silent = _is_silent(clips.values())
    for reading in _readings(turns, silent=silent) if scored else []:
        digest = reading_digest(reading, clips, key)
        if digest in readings or not takes_clips(loaded, reading.turns):
            continue
        prompt = None
        if digest not in known:
            prompt = splice_prompt(loaded, reading.turns, clips, without_silence=True)
        readings[digest] = WrittenReading(
            kind=reading.kind, digest=digest, prompt=prompt
        )
    goes_on = [window_start(turns), _as_it_stands(turns)]
    return WrittenRow(
        prompt=splice_prompt(loaded, turns, clips),
        readings=tuple(readings.values()),
        kind=place_kind(turns),
        clips=tuple(clips.values()),
        memory=memory,
        goes_on=frozenset(reading_digest(reading, clips, key) for reading in goes_on),
    )


def _readings(turns: Sequence[Turn], *, silent: bool) -> list[Reading]:
    """Return what is read of a conversation beside its own prompt.

    Args:
        turns: The conversation.
        silent: Whether one of its clips holds long silence.
    """
    readings = canonical_readings(turns)
    # As it stands, but for the silence, which none of these holds.
    return [*readings, _as_it_stands(turns)] if silent else readings


def _as_it_stands(turns: Sequence[Turn]) -> Reading:
    return Reading(kind=place_kind(turns), turns=tuple(turns))


def _is_silent(clips: Iterable[ClipColumns]) -> bool:
    return any(clip.trimmed is not None for clip in clips)


def _run_rows(
    loaded: LoadedModel,
    rows: Sequence[WrittenRow],
    embeddings: Mapping[bytes, Tensor],
) -> list[tuple[PassResult, int]]:
    """Run each row's prompt; return its pass, and which row of it is the prompt's.

    Prompts that go on from a session's last one are short, and are not padded to those
    that begin.
    """
    found: dict[int, tuple[PassResult, int]] = {}
    prefixes = [_kept_prefix(row) for row in rows]
    for goes_on in (False, True):
        places = [n for n, prefix in enumerate(prefixes) if (prefix is None) != goes_on]
        if places:
            prompts = [rows[n].prompt for n in places]
            done = run_prompts(
                loaded, prompts, embeddings, [prefixes[n] for n in places]
            )
            found |= {n: (done, place) for place, n in enumerate(places)}
    return [found[n] for n in range(len(rows))]


def _kept_prefix(row: WrittenRow) -> KeptPrefix | None:
    """Return what of a row's prompt its session's last request has read."""
    return None if row.memory is None else _most_of(row.prompt, row.memory)


def _most_of(prompt: SplicedPrompt, memory: SessionMemory) -> KeptPrefix | None:
    """Return the most that a session's memory has of a prompt's beginning."""
    found = [(prompt.shared_with(kept.names), kept) for kept in memory.prefixes]
    shared, kept = max(found, key=lambda one: one[0], default=(0, None))
    return kept.cropped(shared) if kept is not None and shared else None


def _read_spliced(
    loaded: LoadedModel,
    rows: Sequence[WrittenRow],
    embeddings: Mapping[bytes, Tensor],
    passes: Sequence[tuple[PassResult, int]],
) -> list[dict[bytes, _FoundReading]]:
    """Return what was read of each row's readings, by their digests."""

    def owner(number: int, row: WrittenRow) -> object:
        # What one session asks twice is read once; sessions share nothing.
        return number if row.memory is None else row.memory.key

    found: list[dict[bytes, _FoundReading]] = []
    waiting: dict[tuple[object, bytes], _AskedReading] = {}
    for number, (row, (done, place)) in enumerate(zip(rows, passes, strict=True)):
        known: dict[bytes, _FoundReading] = {}
        for reading in row.readings:
            if reading.prompt is None:
                states = _remembered(row, reading)
                known[reading.digest] = _FoundReading(states=states)
            elif reading.prompt.names == row.prompt.names:
                # A copy: the batch's states are not to be kept for one row's.
                states = done.states[:, place].clone()
                known[reading.digest] = _FoundReading(states=states)
            elif (owner(number, row), reading.digest) not in waiting:
                waiting[owner(number, row), reading.digest] = _AskedReading(
                    prompt=reading.prompt,
                    prefix=_beginning(row, done, place, reading.prompt),
                    kept=row.memory is not None and reading.digest in row.goes_on,
                )
        found.append(known)
    read = dict(
        zip(waiting, _run_all(loaded, list(waiting.values()), embeddings), strict=True)
    )
    for number, row in enumerate(rows):
        for reading in row.readings:
            asked = owner(number, row), reading.digest
            if asked in read:
                found[number].setdefault(reading.digest, read[asked])
    return found


def _remember(
    row: WrittenRow,
    found: Mapping[bytes, _FoundReading],
    embeddings: Mapping[bytes, Tensor],
    done: PassResult,
    place: int,
) -> None:
    """Keep for the session's next request what was read of this one."""
    if row.memory is None:
        return
    # What is broken is not kept: it blocks this request, and not the ones after it.
    healthy = {digest: read for digest, read in found.items() if is_finite(read.states)}
    prefixes = [read.prefix for read in healthy.values() if read.prefix is not None]
    if is_finite(done.states[:, place]) and is_croppable(done.cache):
        prefixes.append(done.prefix(place, row.prompt, columns=len(row.prompt)))
    trimmed = [clip.trimmed for clip in row.clips if clip.trimmed is not None]
    row.memory.keep(
        {
            clip.digest: (clip, embeddings[clip.digest])
            for clip in (*row.clips, *trimmed)
            if is_finite(embeddings[clip.digest])
        },
        {digest: read.states for digest, read in healthy.items()},
        prefixes,
    )


def _remembered(row: WrittenRow, reading: WrittenReading) -> Tensor:
    if row.memory is None:
        raise SteeringNotAppliedError(
            "a reading was left out of a batch, and no session's memory has it"
        )
    return row.memory.states[reading.digest]


def _row_readings(row: WrittenRow, found: Mapping[bytes, _FoundReading]) -> RowReadings:
    read = []
    in_place = row.kind
    for reading in row.readings:
        if reading.prompt is not None and reading.prompt.names == row.prompt.names:
            in_place = reading.kind
        else:
            states = found[reading.digest].states
            read.append(ReadStates(kind=reading.kind, states=states))
    return RowReadings(
        read=tuple(read), in_place=in_place, silent=_is_silent(row.clips)
    )


def _without_last(
    prompts: Sequence[SplicedPrompt], passes: Sequence[tuple[PassResult, int]]
) -> KeyValueCache:
    """Return one cache, left padded, of every prompt but its last column."""
    done = passes[0][0]
    # Where a row goes on from a prefix, padding may stand between the two.
    gap = bool((done.mask[:, 1:] < done.mask[:, :-1]).any())
    if any(other is not done for other, _ in passes) or gap:
        return left_padded(
            [
                done.prefix(place, prompt, columns=len(prompt) - 1)
                for prompt, (done, place) in zip(prompts, passes, strict=True)
            ]
        )
    # A negative number is how many columns are taken off the end.
    done.cache.crop(-1)
    return done.cache


def _beginning(
    row: WrittenRow, done: PassResult, place: int, prompt: SplicedPrompt
) -> KeptPrefix | None:
    """Return the most that caches hold of the beginning of a row's reading."""
    kept = None if row.memory is None else _most_of(prompt, row.memory)
    here = prompt.shared_with(row.prompt.names) if is_croppable(done.cache) else 0
    if kept is not None and len(kept.names) > here:
        return kept
    return done.prefix(place, row.prompt, columns=here) if here else None


def _run_all(
    loaded: LoadedModel,
    asked: Sequence[_AskedReading],
    embeddings: Mapping[bytes, Tensor],
) -> list[_FoundReading]:
    """Run prompts, each on its prefix."""
    found: dict[int, _FoundReading] = {}
    for places in _passes(
        [_left(one) for one in asked],
        _PASS_COST.get(loaded.device.type, _ACCELERATOR_PASS_COST),
    ):
        prompts = [asked[place].prompt for place in places]
        done = run_prompts(
            loaded, prompts, embeddings, [asked[place].prefix for place in places]
        )
        for row, (place, prompt) in enumerate(zip(places, prompts, strict=True)):
            kept = asked[place].kept and is_croppable(done.cache)
            found[place] = _FoundReading(
                states=done.states[:, row].clone(),
                prefix=done.prefix(row, prompt, columns=len(prompt)) if kept else None,
            )
    return [found[place] for place in range(len(asked))]


def _left(asked: _AskedReading) -> int:
    known = 0 if asked.prefix is None else len(asked.prefix.names)
    return len(asked.prompt) - known


def _passes(lengths: Sequence[int], pass_cost: int) -> Iterator[list[int]]:
    """Yield the places of prompts that are run together, by how much of each is left.

    All of a pass are padded to the longest. A prompt joins the shorter ones where that
    padding costs less than a pass of its own.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        if batch and (
            len(batch) >= _MAX_ROWS
            or (len(batch) + 1) * length > _MAX_TOKENS
            or len(batch) * (length - lengths[batch[-1]]) > pass_cost
        ):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _read_apart(
    loaded: LoadedModel, conversations: Sequence[Sequence[Turn]]
) -> tuple[RowReadings, ...]:
    """Read canonical prompts with features of their own, silence cut from the clips."""
    wanted: list[list[Reading]] = []
    in_place: list[ReadingKind] = []
    silent: list[bool] = []
    for turns in conversations:
        clips = {id(clip): clip for turn in turns for clip in turn.audio}
        spans = {
            place: speech_span(clip, loaded.sampling_rate)
            for place, clip in clips.items()
        }
        silent.append(
            any(long_silence(loaded, clips[place], spans[place]) for place in clips)
        )
        speech = {place: _cut(clip, spans[place]) for place, clip in clips.items()}
        readings: dict[Hashable, Reading] = {}
        for reading in _readings(turns, silent=silent[-1]):
            if takes_clips(loaded, reading.turns):
                heard = [
                    replace(turn, audio=tuple(speech[id(clip)] for clip in turn.audio))
                    for turn in reading.turns
                ]
                readings.setdefault(
                    tuple(map(same_turn, heard)), replace(reading, turns=tuple(heard))
                )
        same = readings.pop(tuple(map(same_turn, turns)), None)
        in_place.append(place_kind(turns) if same is None else same.kind)
        wanted.append(list(readings.values()))
    prompts = [reading.turns for readings in wanted for reading in readings]
    states: dict[int, Tensor] = {}
    for places in _batches(loaded, prompts, _MAX_ROWS):
        inputs = build_inputs(loaded, [prompts[place] for place in places])
        read = last_states(loaded.decoder, inputs)
        states |= {place: read[:, row] for row, place in enumerate(places)}
    place = itertools.count()
    return tuple(
        RowReadings(
            read=tuple(
                ReadStates(kind=reading.kind, states=states[next(place)])
                for reading in readings
            ),
            in_place=kind,
            silent=still,
        )
        for readings, kind, still in zip(wanted, in_place, silent, strict=True)
    )


def _cut(clip: NDArray[np.float32], span: SpeechSpan) -> NDArray[np.float32]:
    # The same array where nothing is cut, by which equal readings are known.
    whole = (span.start, span.stop) == (0, len(clip))
    return clip if whole else clip[span.start : span.stop]


def _batches(
    loaded: LoadedModel, conversations: Sequence[Sequence[Turn]], size: int
) -> Iterator[list[int]]:
    """Yield the places of conversations that may share a batch."""
    groups: dict[Hashable, list[int]] = {}
    for place, turns in enumerate(conversations):
        groups.setdefault(batch_key(loaded, turns), []).append(place)
    for places in groups.values():
        for start in range(0, len(places), size):
            yield places[start : start + size]


def _padded(loaded: LoadedModel, prompts: Sequence[SplicedPrompt]) -> dict[str, Tensor]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), padding_token(loaded), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt.ids
        mask[row, width - len(prompt) :] = 1
    return {
        "input_ids": ids.to(loaded.device),
        "attention_mask": mask.to(loaded.device),
    }
