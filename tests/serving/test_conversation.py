"""What of a conversation reaches the model, by property and through a client."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sarguard.audit.log import AuditLog
from sarguard.client import FALLBACK, SafeAudioLLM
from sarguard.errors import InvalidRequestError
from sarguard.guard.effective_policy import NO_POLICY
from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.policy.model import Policy
from sarguard.serving.backend import BackendInfo
from sarguard.serving.conversation import (
    BLOCKS,
    exchanges,
    fallback_texts,
    fit_conversation,
    superfluous_clips,
    unanswered,
)
from sarguard.serving.request import GenerationRequest
from sarguard.serving.request_guard import ResolvedRequest
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import DoseSpec
from sarguard.types import Outcome, Turn
from tests.serving.fakes import FakeBackend

RATE = 16_000
INFO = BackendInfo(
    model_name="fake",
    revision=None,
    dtype="int8",
    device="nowhere",
    sampling_rate=RATE,
    max_audio_seconds=30.0,
    layers=3,
    vectors_digest="d" * 64,
)
WORDS = fallback_texts(NO_POLICY.fallback, "Not now.")
SYSTEM = Turn(role="system", text="Be brief.")


def user(text: str = "", *samples: int) -> Turn:
    clips = tuple(np.zeros(size, dtype=np.float32) for size in samples)
    return Turn(role="user", text=text, audio=clips)


def said(text: str = "Well.", outcome: Outcome | None = None) -> Turn:
    return Turn(role="assistant", text=text, outcome=outcome)


def count(turns: Any) -> list[int]:  # noqa: ANN401
    return [len(t.text) + sum(clip.size for clip in t.audio) // 640 for t in turns]


def resolved(
    *turns: Turn, max_new_tokens: int = 8, mode: str = "enforce", **history: object
) -> ResolvedRequest:
    policy = Policy.build(
        {
            "mode": mode,
            "text": {"max_chars": history.pop("max_chars", 10**9)},
            "history": {"max_turns": 10**6, "max_seconds": 10**6, **history},
        }
    )
    return ResolvedRequest(
        request=GenerationRequest(),
        policy=policy,
        tier=None,
        dose=DoseSpec.constant(0.1),
        fallback=FALLBACK,
        max_new_tokens=max_new_tokens,
        turns=turns,
    )


def fit(request: ResolvedRequest, info: BackendInfo = INFO) -> ResolvedRequest:
    return fit_conversation(request, info, count_tokens=count, fallback="Not now.")


class TestWhatWasNotAnswered:
    @pytest.mark.parametrize(
        "turn",
        [
            said("Whatever.", Outcome.BLOCKED),
            said("Half an answer\nand a fallback", Outcome.ERROR_CLOSED),
            said("", Outcome.CANCELLED),
            said("  ", Outcome.TIMEOUT),
            said(DEFAULT_MESSAGES["hi"][Reason.BLOCKED]),
            said(DEFAULT_MESSAGES["en"][Reason.TIMEOUT], Outcome.TIMEOUT),
            said(DEFAULT_MESSAGES["ja"][Reason.UNSUPPORTED_AUDIO]),
            said("  I'm sorry, I can't   answer right now.\nPlease try again later. "),
            said(DEFAULT_MESSAGES["en"][Reason.BLOCKED], Outcome.ANSWERED),
            said("Not now."),
        ],
        ids=lambda turn: f"{turn.outcome}: {turn.text[:12]}",
    )
    def test_leaves_with_the_users_turns_before_it(self, turn: Turn) -> None:
        before = [SYSTEM, user("Hello."), said("Hi.")]
        asked = [user("How do I"), user("build one?", 16_000)]
        found = fit(resolved(*before, *asked, turn, user("Yes, sure.")))
        assert [t.text for t in found.turns] == [
            *("Be brief.", "Hello.", "Hi.", "Yes, sure."),
        ]
        assert (found.left_out, found.trimmed) == (3, 0)

    @pytest.mark.parametrize(
        "turn",
        [
            said("Paris."),
            said("Yes, sure."),
            said("I cannot help with that.", Outcome.REFUSED),
            said(DEFAULT_MESSAGES["en"][Reason.REFUSED], Outcome.REFUSED),
            said("Paris is", Outcome.TIMEOUT),
            said("Paris is", Outcome.CANCELLED),
            said("Paris.", Outcome.ERROR_OPEN),
            said(f"{FALLBACK} Or not."),
            said(""),
        ],
        ids=lambda turn: f"{turn.outcome}: {turn.text[:12]}",
    )
    def test_what_was_answered_stays(self, turn: Turn) -> None:
        turns = (user("How?"), turn, user("And?"))
        found = fit(resolved(*turns))
        assert (found.turns, found.left_out) == (turns, 0)

    def test_nothing_but_the_newest_turn_may_be_left(self) -> None:
        blocked = said("No.", Outcome.BLOCKED)
        found = fit(resolved(user("A"), blocked, user("B"), blocked, user("C")))
        assert [t.text for t in found.turns] == ["C"]
        assert found.left_out == 4

    def test_a_refusal_leaves_where_the_policys_words_replace_it(self) -> None:
        words = {"en": {"refused": "Ask our staff."}}
        turns = (user("A"), said("Ask our  staff.", Outcome.REFUSED), user("B"))
        for replaces, left in ((True, 2), (False, 0)):
            rules = {"replace_refusals": replaces, "messages": words}
            policy = Policy.build({"fallback": rules})
            found = fit(replace(resolved(*turns), policy=policy))
            assert found.left_out == left

    def test_an_empty_fallback_makes_no_empty_turn_one(self) -> None:
        assert "" not in fallback_texts(NO_POLICY.fallback, "", " ")


TEXTS = st.text("ab ", min_size=1, max_size=6)
SAMPLES = st.integers(0, 3 * RATE)


@st.composite
def histories(draw: st.DrawFn) -> list[Turn]:
    """Draw a history of exchanges, with greetings and several turns in a row."""
    turns = draw(st.lists(st.just(SYSTEM), max_size=1))
    for _ in range(draw(st.integers(0, 12))):
        for _ in range(draw(st.integers(0, 2))):
            clips = draw(st.lists(SAMPLES, max_size=2))
            turns.append(user(draw(TEXTS), *clips))
        for _ in range(draw(st.integers(0, 2))):
            turns.append(said(draw(TEXTS)))
    return turns


@st.composite
def limits(draw: st.DrawFn) -> dict[str, Any]:
    """Draw limits of which any may be missing."""
    drawn: dict[str, Any] = {}
    for name, values in {
        "max_turns": st.integers(1, 12),
        "max_seconds": st.floats(0.5, 20),
        "max_tokens": st.integers(30, 400),
        "max_chars": st.integers(20, 80),
    }.items():
        if draw(st.booleans()):
            drawn[name] = draw(values)
    return drawn


OUTCOMES = st.sampled_from([None, *Outcome])


@settings(max_examples=200)
@given(histories(), st.lists(OUTCOMES, min_size=60, max_size=60))
def test_whole_exchanges_leave_and_only_those_without_an_answer(
    history: list[Turn], outcomes: list[Outcome | None]
) -> None:
    turns = [
        replace(turn, outcome=outcome) if turn.role == "assistant" else turn
        for turn, outcome in zip(history, outcomes, strict=False)
    ]
    gone = unanswered([*turns, user("And?")], WORDS)
    for exchange in exchanges([*turns, user("And?")]):
        leaves = any(
            turns[place].outcome
            in {Outcome.BLOCKED, Outcome.OVER_LIMIT, Outcome.ERROR_CLOSED}
            or (
                turns[place].outcome in {Outcome.TIMEOUT, Outcome.CANCELLED}
                and not turns[place].text.strip()
            )
            for place in exchange
        )
        assert gone & set(exchange) == (set(exchange) if leaves else set())
    assert all(turns[place].role != "system" for place in gone)


class TestTrimming:
    @settings(max_examples=300)
    @given(histories(), TEXTS, limits(), st.sampled_from([None, 60, 300]))
    def test_every_limit_holds(
        self,
        history: list[Turn],
        text: str,
        bounds: dict[str, Any],
        context: int | None,
    ) -> None:
        newest = user(text, RATE)
        info = replace(INFO, context_tokens=context)
        request = resolved(*history, newest, **bounds)
        alone = sum(count([t for t in history if t.role == "system"] + [newest]))
        room = min(bounds.get("max_tokens", 10**9), (context or 10**9) - 8)
        if alone > room:
            with pytest.raises(InvalidRequestError, match=str(alone)):
                fit(request, info)
            return
        found = fit(request, info)
        kept = [turn for turn in found.turns[:-1] if turn.role != "system"]
        spoken = [turn for turn in history if turn.role != "system"]
        system = [turn for turn in history if turn.role == "system"]
        seconds = sum(clip.size for turn in kept for clip in turn.audio) / RATE
        assert len(kept) <= bounds.get("max_turns", 10**6)
        assert seconds <= bounds.get("max_seconds", 10**6)
        assert sum(count(found.turns)) <= room
        assert sum(len(t.text) for t in found.turns) <= bounds.get("max_chars", 10**9)
        # What is kept are the newest exchanges, whole, the system turn and the newest.
        tail = spoken[len(spoken) - len(kept) :]
        assert list(found.turns) == [*system, *tail, newest]
        starts = {places[0] for places in exchanges(request.turns)}
        assert not kept or len(history) - len(kept) in starts
        assert (found.trimmed, found.left_out) == (len(spoken) - len(kept), 0)
        # A function of the turns alone, whatever objects they are.
        copied = tuple(replace(turn) for turn in request.turns)
        again = fit(replace(request, turns=copied), info)
        assert len(again.turns) == len(found.turns)

    @settings(max_examples=60)
    @given(
        st.integers(20, 120),
        st.integers(4, 60),
        st.randoms(use_true_random=False),
        st.sampled_from(["max_turns", "max_seconds", "max_tokens", "max_chars"]),
    )
    def test_the_first_kept_turn_changes_once_a_block(
        self, exchanged: int, limit: int, chance: random.Random, name: str
    ) -> None:
        limit = limit if name in ("max_turns", "max_seconds") else 20 * limit
        history: list[Turn] = [SYSTEM]
        firsts, totals = [], []
        for number in range(exchanged):
            newest = user(f"{number:03}", chance.randint(1, RATE))
            request = resolved(*history, newest, **{name: limit})
            found = fit(request)
            firsts.append(len(history) + 1 - len(found.turns))
            totals.append(self._size(name, request.turns))
            history += [newest, said("." * chance.randint(1, 9))]
        assert firsts == sorted(firsts)
        changes = len(set(firsts)) - 1
        block = limit / BLOCKS
        crossed = max(0.0, totals[-1] - limit) / block
        assert changes <= np.ceil(crossed)
        assert not crossed or changes >= 1

    @staticmethod
    def _size(name: str, turns: tuple[Turn, ...]) -> float:
        past = turns[1:-1]
        if name == "max_turns":
            return len(past)
        if name == "max_seconds":
            return sum(clip.size for turn in past for clip in turn.audio) / RATE
        chars = sum(len(turn.text) for turn in turns)
        return sum(count(turns)) if name == "max_tokens" else chars

    def test_a_step_is_a_quarter_of_the_limit(self) -> None:
        """The rule as it is written, in numbers."""
        kept = []
        for exchanged in range(24):
            history = [user("q"), said("a")] * exchanged
            kept.append(len(fit(resolved(*history, user("q"), max_turns=16)).turns) - 1)
        # 16 turns fit; from then on 4 leave at a time.
        assert kept[:9] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
        assert kept[9:15] == [14, 16, 14, 16, 14, 16]

    def test_the_answer_has_its_place_in_the_context(self) -> None:
        info = replace(INFO, context_tokens=100)
        history = [user("q" * 10), said("a" * 10)] * 4
        found = fit(resolved(*history, user("q" * 10), max_new_tokens=30), info)
        assert sum(count(found.turns)) <= 70
        assert found.max_new_tokens == 30
        # Whoever asks for more than there is gets what is left, half of it at least.
        found = fit(resolved(*history, user("q" * 10), max_new_tokens=10**6), info)
        assert sum(count(found.turns)) <= 50
        assert found.max_new_tokens == 100 - sum(count(found.turns))

    def test_a_request_that_fits_nowhere_says_what_was_found(self) -> None:
        info = replace(INFO, context_tokens=100)
        for more in ({}, {"when_exceeded": "refuse"}, {"mode": "shadow"}):
            with pytest.raises(
                InvalidRequestError, match=r"take 95 .* room for 92.*sho"
            ):
                fit(resolved(user("q" * 95), **more), info)
        with pytest.raises(InvalidRequestError, match=r"take 29 .* room for 20"):
            fit(resolved(SYSTEM, user("q" * 20), max_tokens=20), info)

    def test_text_that_is_too_long_alone_costs_no_history(self) -> None:
        history = (user("q"), said("a"))
        found = fit(resolved(*history, user("q" * 30), max_chars=20))
        assert (len(found.turns), found.trimmed) == (3, 0)


class TestRefusing:
    def test_nothing_leaves_and_the_limit_is_named(self) -> None:
        history = [user("q", RATE), said("a")] * 3
        bounds: dict[str, Any] = {"when_exceeded": "refuse"}
        for name, limit, found in (
            ("max_turns", 5, "6"),
            ("max_seconds", 2.5, "3"),
            ("max_tokens", 81, "82"),
        ):
            request = resolved(*history, user("q"), **bounds, **{name: limit})
            kept = fit(request)
            assert (len(kept.turns), kept.trimmed) == (7, 0)
            said_so = f"history.{name} is {limit}, the request has {found}"
            assert str(kept.exceeded) == said_so
        assert fit(resolved(*history, user("q"), **bounds)).exceeded is None

    def test_shadow_mode_reads_no_more_than_the_model_can(self) -> None:
        history = [user("q" * 20), said("a" * 20)] * 3
        info = replace(INFO, context_tokens=100)
        request = resolved(
            *history, user("q"), mode="shadow", when_exceeded="refuse", max_turns=1
        )
        found = fit(request, info)
        assert found.exceeded is not None
        assert found.exceeded.rule == "history.max_turns"
        assert sum(count(found.turns)) <= 92
        assert len(fit(request).turns) == 7


class TestOneClip:
    """Families that take one clip a conversation."""

    INFO = replace(INFO, single_audio=True)

    def test_the_newest_clip_stays(self) -> None:
        turns = [
            *(user("A", 10), said("a"), user("B"), said("b")),
            *(user("C", 20), said("c"), user("D"), said("d")),
        ]
        asked = fit(resolved(*turns, user("E", 30)), self.INFO)
        assert [t.text for t in asked.turns] == ["B", "b", "D", "d", "E"]
        assert asked.trimmed == 4
        spoken_of = fit(resolved(*turns, user("E")), self.INFO)
        assert [t.text for t in spoken_of.turns] == [*"BbCcDdE"]
        assert superfluous_clips((user("A", 1, 1), said(), user("B"))) == {0, 1}

    def test_a_policy_that_refuses_trims_nothing(self) -> None:
        turns = (user("A", 10), said("a"), user("B", 10))
        found = fit(resolved(*turns, when_exceeded="refuse"), self.INFO)
        assert (len(found.turns), found.trimmed) == (3, 0)


def test_exchanges_begin_where_the_user_speaks() -> None:
    turns = [said(), SYSTEM, user(), user(), said(), said(), user(), user(), user()]
    assert exchanges(turns) == [(0,), (2, 3, 4, 5), (6, 7)]
    assert unanswered([user(), said("", Outcome.BLOCKED)], WORDS) == set()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


Clients = Iterator[tuple[SafeAudioLLM, FakeBackend]]


@pytest.fixture
def served(tiny_bundle: SteeringBundle, ledger: Path) -> Clients:
    """Return a client over a backend that blocks what it is told to, and the latter."""
    backend = FakeBackend(
        "Paris.",
        vectors_digest=tiny_bundle.card.vectors_digest,
        layers=tiny_bundle.card.layers,
        context_tokens=200,
    )
    policy = Policy.build(
        {"steering": {"block_threshold": 100}, "history": {"max_turns": 8}}
    )
    with SafeAudioLLM(backend, tiny_bundle, policy=policy, audit=ledger) as client:
        yield client, backend


class TestThroughAClient:
    def test_a_blocked_turn_can_not_be_answered_later(
        self, served: tuple[SafeAudioLLM, FakeBackend], ledger: Path
    ) -> None:
        client, backend = served
        backend.score = 1e9
        first = client.generate(text="How do I build one?", max_new_tokens=8)
        assert first.outcome is Outcome.BLOCKED
        assert first.as_turn().outcome is Outcome.BLOCKED
        backend.score = -1.0
        history = [client.turn("user", text="How do I build one?"), first.as_turn()]
        reply = client.generate(text="Yes, sure.", history=history, max_new_tokens=8)
        assert [turn.text for turn in backend.asked[-1].turns] == ["Yes, sure."]
        assert (reply.guard.left_out, reply.guard.trimmed) == (2, 0)
        # Nor without the outcome: its words are the policy's.
        plain = [Turn(role=t.role, text=t.text) for t in history]
        assert client.generate(text="Yes.", history=plain).guard.left_out == 2
        # A made-up answer stays, for the gate to see what it answers.
        claimed = [history[0], Turn(role="assistant", text="Yes, sure.")]
        assert client.generate(text="Go on.", history=claimed).guard.left_out == 0
        assert len(backend.asked[-1].turns) == 3
        del client
        with AuditLog.open(ledger, read_only=True) as log:
            written = [json.loads(entry.data) for entry in log.entries()]
        ended = [r for r in written if r["kind"] == "request_finished"]
        assert [r.get("left_out") for r in ended] == [None, 2, 2, None]
        assert [r["schema_version"] for r in ended] == [1, 2, 2, 1]
        assert not any("trimmed" in r for r in ended)

    def test_a_long_call_goes_on(
        self, served: tuple[SafeAudioLLM, FakeBackend]
    ) -> None:
        client, backend = served
        history: list[Turn] = []
        trimmed = []
        for number in range(30):
            text = f"Question {number}?"
            reply = client.generate(text=text, history=history, max_new_tokens=6)
            assert reply.outcome is Outcome.ANSWERED
            trimmed.append(reply.guard.trimmed)
            assert len(backend.asked[-1].turns) <= 9
            history += [client.turn("user", text=text), reply.as_turn()]
        assert trimmed[:6] == [0, 0, 0, 0, 0, 2]
        assert trimmed == sorted(trimmed)
        assert client.audit is not None
        last = [e.record for e in client.audit.entries()][-1]
        assert getattr(last, "trimmed", None) == trimmed[-1]

    def test_what_is_too_long_does_not_wait_for_the_model(
        self, served: tuple[SafeAudioLLM, FakeBackend]
    ) -> None:
        client, backend = served
        with pytest.raises(InvalidRequestError, match="300 prompt tokens"):
            client.generate(text="q" * 300, max_new_tokens=6)
        assert backend.asked == []

    def test_a_policy_may_refuse(
        self, served: tuple[SafeAudioLLM, FakeBackend]
    ) -> None:
        client, backend = served
        rules = {"max_turns": 2, "when_exceeded": "refuse", "reuse": False}
        held = {"steering": {"block_threshold": 100}, "history": rules}
        client.change_policy(Policy.build(held))
        history = [Turn(role="user", text="q"), Turn(role="assistant", text="a")]
        assert client.generate(text="q", history=history).outcome is Outcome.ANSWERED
        assert backend.asked[-1].reuse is False
        reply = client.generate(text="q", history=history * 2)
        assert (reply.outcome, len(backend.asked)) == (Outcome.OVER_LIMIT, 1)
        assert reply.guard.fault == "history.max_turns is 2, the request has 4"

    def test_what_was_computed_is_kept_unless_the_policy_says_no(
        self, served: tuple[SafeAudioLLM, FakeBackend]
    ) -> None:
        client, backend = served
        client.generate(text="q")
        assert backend.asked[-1].reuse is True
