"""Going on from what a session's last request has read: the same as reading it all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sarguard.audio.silence import speech_span
from sarguard.decoding import Row, decode_rows
from sarguard.decoding.request_reader import ReadBatch, read_batch, write_batch
from sarguard.decoding.session_memory import SessionMemory
from sarguard.models.loading import LoadedModel
from sarguard.steering.dose import DoseRule, DoseSpec, ReadingKind
from sarguard.steering.steerer import Steerer
from sarguard.types import Turn
from tests import tiny

CALLERS = 16
ROUNDS = 3
TOKENS = 4


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny.build()


@pytest.fixture
def steerer(loaded: LoadedModel) -> Iterator[Steerer]:
    generator = torch.Generator().manual_seed(3)
    shape = (len(loaded.decoder), loaded.decoder.hidden_size)
    with Steerer(loaded.decoder, torch.randn(shape, generator=generator)) as attached:
        yield attached


def score(states: Tensor, _kind: ReadingKind) -> Tensor:
    return states[-1].mean(dim=-1)


def dose(*, constant: bool = False) -> DoseSpec:
    if constant:
        return DoseSpec.constant(0.4)
    return DoseSpec(rule=DoseRule(floor=0.1, ceiling=0.9, low=-1.0, high=1.0))


def read(
    loaded: LoadedModel,
    steerer: Steerer,
    conversations: Sequence[Sequence[Turn]],
    memories: Sequence[SessionMemory | None],
    *,
    scored: bool = True,
) -> ReadBatch:
    written = write_batch(loaded, conversations, scored=scored, memories=memories)
    with steerer.bare():
        return read_batch(loaded, written)


def answer(
    loaded: LoadedModel,
    steerer: Steerer,
    conversations: Sequence[Sequence[Turn]],
    memories: Sequence[SessionMemory | None],
    *,
    constant: bool = False,
) -> list[Row]:
    found = read(loaded, steerer, conversations, memories, scored=not constant)
    rows = [
        Row(dose=dose(constant=constant), max_new_tokens=TOKENS) for _ in conversations
    ]
    decode_rows(
        loaded,
        steerer,
        found.inputs,
        rows,
        score=score,
        readings=found.readings,
        states=found.states,
    )
    return rows


class Caller:
    """A session that asks again and again, with sound, with words, or both."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.memory = SessionMemory()
        self.turns: list[Turn] = []
        if seed % 3 == 0:
            self.turns.append(Turn(role="system", text=f"You sell {seed} tickets."))

    def ask(self) -> list[Turn]:
        draw = self._random
        text = draw.choice(["", "And this?", "A longer question than the others."])
        clips = []
        if not text or draw.random() < 0.7:
            # Some clips come twice in a session, and in several sessions.
            pitch = draw.choice([200, 260, 310])
            clips = [tiny.clip(draw.choice([0.4, 0.9, 1.3]), pitch=pitch)]
        self.turns.append(Turn(role="user", text=text, audio=tuple(clips)))
        return list(self.turns)

    def hear(self, said: str) -> None:
        # Now and then a turn is taken back, or the history is cut.
        if self._random.random() < 0.2:
            self.turns.pop()
        else:
            self.turns.append(Turn(role="assistant", text=said))


@pytest.mark.parametrize("constant", [False, True])
def test_mixed_callers_get_the_tokens_that_they_get_without(
    loaded: LoadedModel, steerer: Steerer, constant: bool
) -> None:
    callers = [Caller(seed) for seed in range(CALLERS)]
    order = random.Random(5)
    goes_on = 0
    for _ in range(ROUNDS):
        order.shuffle(callers)
        start = 0
        while start < CALLERS:
            batch = callers[start : start + order.choice([1, 2, 3, 5, 8])]
            start += len(batch)
            asked = [caller.ask() for caller in batch]
            goes_on += sum(bool(caller.memory.prefixes) for caller in batch)
            kept, plain = (
                answer(loaded, steerer, asked, memories, constant=constant)
                for memories in (
                    [caller.memory for caller in batch],
                    [None] * len(batch),
                )
            )
            for one, other in zip(kept, plain, strict=True):
                assert one.token_ids == other.token_ids
                assert one.decision is not None
                assert other.decision is not None
                assert one.decision.reading == other.decision.reading
                if not constant:
                    assert one.decision.score == pytest.approx(
                        other.decision.score, abs=1e-3
                    )
            for caller, row in zip(batch, kept, strict=True):
                caller.hear(loaded.tokenizer.decode(row.token_ids) or "Yes.")
    assert goes_on > CALLERS


def conversation(turns: int, *, written: bool = True) -> list[Turn]:
    found = []
    for n in range(turns):
        clip = tiny.clip(0.6, pitch=200 + 30 * n)
        text = f"Question {n}?" if written else ""
        found.append(Turn(role="user", text=text, audio=(clip,)))
        found.append(Turn(role="assistant", text="An answer."))
    return found[:-1]


class Passes:
    """What every pass of the decoder and of the encoder ran over.

    Of the decoder the columns of all rows, padding included; of the encoder the clips.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.columns: list[int] = []
        self.clips: list[int] = []
        tower = loaded.model.model.audio_tower
        self._handles = [
            loaded.decoder.layers[0].register_forward_hook(
                lambda *run: self.columns.append(run[2].shape[:2].numel())
            ),
            tower.conv1.register_forward_hook(
                lambda *run: self.clips.append(run[2].shape[0])
            ),
        ]

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def test_only_what_is_new_is_read(loaded: LoadedModel, steerer: Steerer) -> None:
    memory = SessionMemory()
    read(loaded, steerer, [conversation(2)], [memory])
    with Passes(loaded) as passes:
        found = read(loaded, steerer, [conversation(3)], [memory])
    assert passes.clips == [1]
    new = passes.columns[0]
    assert new < 0.5 * found.inputs["input_ids"].shape[1]


def test_every_later_turn_costs_the_same(loaded: LoadedModel, steerer: Steerer) -> None:
    """Each reads its clip alone, in its window and in place, and nothing else."""
    memory = SessionMemory()
    costs = []
    for turns in range(1, 8):
        with Passes(loaded) as passes:
            read(loaded, steerer, [conversation(turns, written=False)], [memory])
        costs.append(sum(passes.columns))
    alone, *later = costs
    assert max(later) <= 3.3 * alone


def test_a_request_without_a_session_encodes_each_clip_once(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    with Passes(loaded) as passes:
        read(loaded, steerer, [conversation(3)], [None])
    assert passes.clips == [3]


def test_two_sessions_share_nothing(loaded: LoadedModel, steerer: Steerer) -> None:
    one, other = SessionMemory(), SessionMemory()
    read(loaded, steerer, [conversation(1)], [one])
    with Passes(loaded) as passes:
        read(loaded, steerer, [conversation(1)], [other])
    assert passes.clips == [1]
    assert not set(one.clips) & set(other.clips)
    assert not set(one.states) & set(other.states)
    # Not even inside a batch, where one would wait less for what the other sent.
    with Passes(loaded) as passes:
        read(loaded, steerer, [conversation(1)] * 2, [SessionMemory(), None])
    assert passes.clips == [2]


def test_a_changed_clip_or_word_is_read_again(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    memory = SessionMemory()
    read(loaded, steerer, [conversation(2)], [memory])
    changed = conversation(3)
    samples = changed[0].audio[0].copy()
    samples[100] += 0.5
    changed[0] = Turn(role="user", text=changed[0].text, audio=(samples,))
    kept = read(loaded, steerer, [changed], [memory])
    plain = read(loaded, steerer, [changed], [None])
    assert kept.states is not None
    assert plain.states is not None
    torch.testing.assert_close(kept.states, plain.states, atol=1e-4, rtol=1e-4)


def test_steered_states_are_never_gone_on_from(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    memory = SessionMemory()
    asked = conversation(1)
    answer(loaded, steerer, [asked], [memory])
    (prefix,) = memory.prefixes
    fresh = SessionMemory()
    read(loaded, steerer, [asked], [fresh])
    (unsteered,) = fresh.prefixes
    assert prefix.names != unsteered.names  # Their keys differ.
    for pair, other in zip(prefix.layers, unsteered.layers, strict=True):
        for part, expected in zip(pair, other, strict=True):
            assert torch.equal(part, expected)


def test_what_is_not_finite_is_not_kept(loaded: LoadedModel, steerer: Steerer) -> None:
    memory = SessionMemory()
    layer = loaded.decoder.layers[1]
    handle = layer.register_forward_hook(lambda *run: run[2] * float("nan"))
    (row,) = answer(loaded, steerer, [conversation(2)], [memory])
    handle.remove()
    assert row.ending == "blocked"
    assert not memory.prefixes
    assert not memory.states
    (row,) = answer(loaded, steerer, [conversation(2)], [memory])
    assert row.ending in ("length", "stop")


def test_a_fork_of_a_conversation_goes_on_from_where_it_left(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    memory = SessionMemory()
    trunk = conversation(2)
    read(loaded, steerer, [trunk], [memory])
    forks = [
        [*trunk, Turn(role="assistant", text=said), Turn(role="user", text="So?")]
        for said in ("Yes.", "No, never.")
    ]
    kept = answer(loaded, steerer, forks, [memory, memory])
    plain = answer(loaded, steerer, forks, [None, None])
    assert [row.token_ids for row in kept] == [row.token_ids for row in plain]


@pytest.mark.parametrize("seconds", [0.4, 1.0, 6.0])
def test_a_silence_behind_a_clip_is_no_part_of_its_reading(
    loaded: LoadedModel, steerer: Steerer, seconds: float
) -> None:
    clip = tiny.clip(1.0)
    quiet = np.zeros(int(seconds * tiny.RATE), dtype=np.float32)
    padded = np.concatenate([quiet, clip, quiet])
    memory = SessionMemory()
    asked = [Turn(role="user", audio=(padded,))]
    with Passes(loaded) as passes:
        first = read(loaded, steerer, [asked], [memory])
    assert passes.clips == [2 if seconds > 1.0 else 1]
    columns = first.inputs["input_ids"].shape[1]
    assert first.readings is not None
    if seconds > 0.5:
        assert [found.kind for found in first.readings[0].read] == ["clip"]
        assert passes.columns[1] < columns
    with Passes(loaded) as passes:
        again = read(loaded, steerer, [asked], [memory])
    assert passes.clips == []
    assert again.readings is not None
    for one, other in zip(first.readings[0].read, again.readings[0].read, strict=True):
        torch.testing.assert_close(one.states, other.states, atol=1e-4, rtol=1e-4)
    if seconds > 1.0:
        span = speech_span(padded, tiny.RATE)
        alone = [Turn(role="user", audio=(padded[span.start : span.stop],))]
        expected = read(loaded, steerer, [alone], [None])
        assert expected.states is not None
        torch.testing.assert_close(
            first.readings[0].read[0].states,
            expected.states[:, 0],
            atol=1e-4,
            rtol=1e-4,
        )


def silent_conversation(turns: int) -> list[Turn]:
    still = np.zeros(4 * tiny.RATE, dtype=np.float32)
    return [
        replace(turn, audio=tuple(np.concatenate([still, c]) for c in turn.audio))
        for turn in conversation(turns, written=False)
    ]


def test_a_conversation_with_long_silences_is_read_without_them(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    system = Turn(role="system", text="You sell tickets.")
    asked = [system, *silent_conversation(3)]

    def trimmed(clip: np.ndarray) -> np.ndarray:
        span = speech_span(clip, tiny.RATE)
        return clip[span.start : span.stop]

    cut = [replace(turn, audio=tuple(map(trimmed, turn.audio))) for turn in asked]
    found = read(loaded, steerer, [asked], [None])
    expected = read(loaded, steerer, [cut], [None])
    assert found.readings is not None
    assert expected.states is not None
    (place,) = [one for one in found.readings[0].read if one.kind == "conversation"]
    torch.testing.assert_close(
        place.states, expected.states[:, 0], atol=1e-4, rtol=1e-4
    )


def test_later_turns_with_long_silences_cost_the_same(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    memory = SessionMemory()
    costs = []
    for turns in range(1, 7):
        with Passes(loaded) as passes:
            read(loaded, steerer, [silent_conversation(turns)], [memory])
        costs.append(sum(passes.columns))
    # The conversation is read once more, without its silences.
    alone, *later = costs
    assert max(later) <= 3.3 * alone
