from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sarguard.client import FALLBACK, SafeAudioLLM
from sarguard.errors import (
    AudioEmptyError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    QueueFullError,
)
from sarguard.guard.effective_policy import NO_POLICY
from sarguard.models.loading import LoadedModel
from sarguard.serving import batch_engine as engines
from sarguard.serving import output_processor
from sarguard.serving.request import GenerationInput, GenerationRequest
from sarguard.serving.request_guard import Block, Findings, ResolvedRequest
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Done, Event, Outcome, Refusal, Reply, TextDelta
from tests import tiny
from tests.serving.conftest import Steps
from tests.serving.fakes import OpenGuard

Open = Callable[..., SafeAudioLLM]

CLIP = (tiny.clip(0.5), tiny.RATE)
LONG = (tiny.clip(1.3, pitch=140), tiny.RATE)
QUESTIONS: list[GenerationInput] = [
    {"audio": CLIP, "text": "Hi.", "max_new_tokens": 5},
    {"audio": LONG, "text": "What is this?", "max_new_tokens": 9, "alpha": 0.4},
    {"text": "No clip.", "max_new_tokens": 7, "alpha": 0.2},
    {"audio": CLIP, "text": "Go.", "temperature": 2.0, "seed": 3, "max_new_tokens": 8},
    {
        "audio": LONG,
        "text": "Go.",
        "temperature": 1.5,
        "top_k": 9,
        "seed": 4,
        "max_new_tokens": 6,
    },
    {
        "text": "Two.",
        "system": "Be brief.",
        "repetition_penalty": 1.4,
        "max_new_tokens": 9,
    },
]


def joined(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def last(events: list[Event]) -> Reply:
    assert isinstance(events[-1], Done)
    return events[-1].reply


def same(one: Reply, other: Reply) -> bool:
    return (one.text, one.outcome, one.finish_reason, one.usage, one.guard) == (
        other.text,
        other.outcome,
        other.finish_reason,
        other.usage,
        other.guard,
    )


class TestStreaming:
    @pytest.mark.parametrize("question", QUESTIONS)
    def test_a_stream_says_what_generate_says(
        self, opened: Open, question: GenerationInput
    ) -> None:
        client = opened()
        whole = client.generate(**question)
        events = list(client.stream(**question))
        assert joined(events) == whole.text
        assert same(last(events), whole)
        assert [type(event) for event in events].count(Done) == 1

    def test_the_first_piece_leaves_before_the_last_is_made(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened()
        stream = client.stream(text="Hi.", max_new_tokens=30)
        assert isinstance(next(stream), TextDelta)
        assert not stream._state.settled or steps.count > 1
        stream.close()

    def test_closing_frees_the_model_within_a_step(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened()
        stream = client.stream(text="Hi.", max_new_tokens=500)
        next(stream)
        steps.hold()
        steps.wait_until_held()
        count = steps.count
        stream.close()
        steps.release()
        after = client.generate(text="Next.", max_new_tokens=2)
        assert after.outcome is Outcome.ANSWERED
        assert steps.count - count <= 2
        assert list(stream) == []

    def test_dropping_the_iterator_frees_the_model(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened()
        for _ in client.stream(text="Hi.", max_new_tokens=500):
            break
        gc.collect()
        client.generate(text="Next.", max_new_tokens=2)
        assert steps.count < 100

    def test_a_stop_string_ends_an_answer(self, opened: Open) -> None:
        client = opened()
        whole = client.generate(text="Hi.", max_new_tokens=20).text
        stop = whole[4:6]
        events = list(client.stream(text="Hi.", max_new_tokens=20, stop=[stop, "zzz"]))
        assert joined(events) == whole[: whole.index(stop)].strip()
        assert last(events).finish_reason == "stop"
        assert last(events).usage.output_tokens < 20

    def test_nothing_unproven_is_streamed(
        self, opened: Open, loaded: LoadedModel, steps: Steps
    ) -> None:
        client = opened()
        whole = client.generate(text="Hi.", max_new_tokens=12).text
        layer = loaded.decoder.layers[2]
        start = steps.count

        def sabotage(*_: object) -> None:
            if steps.count == start + 4:
                layer._forward_hooks.clear()

        layer.register_forward_pre_hook(sabotage)
        events = list(client.stream(text="Hi.", max_new_tokens=12))
        assert whole.startswith(joined(events))
        assert last(events).usage.output_tokens <= 3
        assert events[-2] == Refusal(outcome=Outcome.ERROR_CLOSED, text=FALLBACK)
        assert last(events).outcome is Outcome.ERROR_CLOSED
        assert last(events).text == FALLBACK

    def test_a_refusal_is_said_and_marked(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(output_processor, "is_refusal", lambda _text: True)
        events = list(opened().stream(text="Hi.", max_new_tokens=4))
        assert joined(events) == last(events).text
        assert events[-2] == Refusal(outcome=Outcome.REFUSED, text=last(events).text)


class TestBatching:
    def test_a_batch_answers_each_as_if_alone(self, opened: Open, steps: Steps) -> None:
        client = opened()
        alone = [client.generate(**question) for question in QUESTIONS]
        before = len(steps.rows)
        together = client.generate_batch(QUESTIONS)
        assert all(map(same, together, alone))
        assert max(steps.rows[before:]) == len(QUESTIONS)

    @given(
        chosen=st.lists(
            st.fixed_dictionaries(
                {
                    "text": st.sampled_from(["Hi.", "And now?", "Tell me more."]),
                    "max_new_tokens": st.integers(1, 6),
                    "alpha": st.sampled_from([0.1, 0.3, 0.7]),
                    "temperature": st.sampled_from([0.0, 1.5]),
                    "seed": st.integers(0, 3),
                }
            ),
            min_size=1,
            max_size=6,
        )
    )
    @settings(
        max_examples=12,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_any_schedule_of_threads_gives_the_answers_of_one(
        self, opened: Open, loaded: LoadedModel, chosen: list[GenerationInput]
    ) -> None:
        client = opened(max_batch=3, max_queue=2)
        alone = [client.generate(**question) for question in chosen]
        found: dict[int, Reply] = {}

        def ask(index: int) -> None:
            found[index] = client.generate(**chosen[index])

        threads = [
            threading.Thread(target=ask, args=(index,)) for index in range(len(chosen))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
        assert all(same(found[i], reply) for i, reply in enumerate(alone))

    def test_who_waits_is_answered_together(self, opened: Open, steps: Steps) -> None:
        client = opened()
        steps.hold()
        first = client.stream(text="First.", max_new_tokens=2)
        steps.wait_until_held()
        others = [client.stream(text=f"Other {n}.", max_new_tokens=2) for n in range(4)]
        steps.release()
        replies = [last(list(stream)) for stream in (first, *others)]
        assert {reply.outcome for reply in replies} == {Outcome.ANSWERED}
        assert steps.rows[-2:] == [4, 4]
        assert replies[-1].timings.queue_s > 0

    def test_a_bad_request_costs_its_neighbours_nothing(
        self, opened: Open, steps: Steps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = engines.write_batch

        def fail(loaded: LoadedModel, conversations: list, **options: object) -> object:
            if any(turns[-1].text == "Bad." for turns in conversations):
                raise TypeError("the processor choked")
            return write(loaded, conversations, **options)

        monkeypatch.setattr(engines, "write_batch", fail)
        client = opened()
        good, bad, other = client.generate_batch(
            [{"text": text, "max_new_tokens": 2} for text in ("A.", "Bad.", "B.")]
        )
        assert good.outcome is other.outcome is Outcome.ANSWERED
        assert (bad.outcome, bad.text) == (Outcome.ERROR_CLOSED, FALLBACK)
        assert bad.guard.fault == "TypeError: the processor choked"

    def test_a_question_that_makes_no_sense_is_the_callers(self, opened: Open) -> None:
        client = opened()
        with pytest.raises(InvalidRequestError):
            client.generate_batch([{"text": "A."}, {"text": "B.", "max_new_tokens": 0}])
        with pytest.raises(AudioEmptyError):
            client.generate_batch([{"text": "A.", "max_new_tokens": 2}, {"audio": b""}])
        with pytest.raises(InvalidRequestError, match="beams"):
            client.generate_batch([{"text": "A.", "beams": 3}])  # type: ignore[typeddict-unknown-key]
        assert client.generate(text="A.", max_new_tokens=2).outcome is Outcome.ANSWERED

    def test_nothing_asked_is_nothing_answered(self, opened: Open) -> None:
        assert opened().generate_batch([]) == []


class TestWaiting:
    def test_a_full_line_is_an_error_where_that_was_asked_for(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened(max_queue=2, queue_full="raise")
        steps.hold()
        running = client.stream(text="Run.", max_new_tokens=2)
        steps.wait_until_held()
        waiting = [client.stream(text="Wait.", max_new_tokens=2) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests wait"):
            client.generate(text="More.")
        waiting[0].close()
        waiting.append(client.stream(text="Now.", max_new_tokens=2))
        steps.release()
        for stream in (running, *waiting[1:]):
            assert last(list(stream)).outcome is Outcome.ANSWERED

    def test_a_full_line_makes_callers_wait(self, opened: Open, steps: Steps) -> None:
        client = opened(max_queue=1, max_batch=1)
        steps.hold()
        found: list[Reply] = []

        def ask() -> None:
            found.append(client.generate(text="Hi.", max_new_tokens=2))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        steps.wait_until_held()
        assert len(client._worker.queue) <= 1
        steps.release()
        for thread in threads:
            thread.join()
        assert [reply.outcome for reply in found] == [Outcome.ANSWERED] * 5

    def test_a_timeout_counts_from_the_call(self, opened: Open, steps: Steps) -> None:
        client = opened()
        steps.hold()
        running = client.stream(text="Run.", max_new_tokens=2)
        steps.wait_until_held()
        reply = client.generate(text="Late.", timeout=0.1)
        steps.release()
        assert (reply.outcome, reply.finish_reason) == (Outcome.TIMEOUT, "timeout")
        assert reply.text == NO_POLICY.message("timeout").text
        assert reply.usage.output_tokens == 0
        assert last(list(running)).outcome is Outcome.ANSWERED

    def test_a_timeout_in_a_full_line(self, opened: Open, steps: Steps) -> None:
        client = opened(max_queue=1)
        steps.hold()
        streams = [client.stream(text="Run.", max_new_tokens=2)]
        steps.wait_until_held()
        streams.append(client.stream(text="Wait.", max_new_tokens=2))
        assert client.generate(text="Late.", timeout=0.1).outcome is Outcome.TIMEOUT
        steps.release()
        for stream in streams:
            assert last(list(stream)).outcome is Outcome.ANSWERED

    def test_what_was_said_before_the_time_was_over_stays_said(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened()
        stream = client.stream(text="Hi.", max_new_tokens=500, timeout=20)
        pieces = [next(stream)]
        steps.hold()
        steps.wait_until_held()
        # The clock is the request's: its time is over now.
        stream._state.times.called -= 30
        events = [*pieces, *stream]
        steps.release()
        reply = last(events)
        assert reply.outcome is Outcome.TIMEOUT
        assert reply.text == joined(events) != ""
        assert client.generate(text="Next.", max_new_tokens=2).outcome is (
            Outcome.ANSWERED
        )

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
    def test_a_timeout_is_a_time(self, opened: Open, timeout: float) -> None:
        with pytest.raises(InvalidRequestError, match="timeout"):
            opened().generate(text="Hi.", timeout=timeout)

    @pytest.mark.parametrize(
        "options", [{"max_batch": 0}, {"max_queue": 0}, {"queue_full": "drop"}]
    )
    def test_the_line_is_checked(
        self,
        loaded: LoadedModel,
        tiny_bundle: SteeringBundle,
        options: dict[str, object],
    ) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            SafeAudioLLM.from_loaded(loaded, tiny_bundle, **options)  # type: ignore[arg-type]


class TestAsync:
    def test_tasks_share_the_model(self, opened: Open) -> None:
        client = opened()
        alone = [client.generate(**question) for question in QUESTIONS]

        async def ask_all() -> list[Reply]:
            return await asyncio.gather(*(client.agenerate(**q) for q in QUESTIONS))

        assert all(map(same, asyncio.run(ask_all()), alone))

    def test_an_async_stream_says_the_same(self, opened: Open) -> None:
        client = opened()
        whole = client.generate(**QUESTIONS[0])

        async def collect() -> list[Event]:
            return [event async for event in client.astream(**QUESTIONS[0])]

        events = asyncio.run(collect())
        assert joined(events) == whole.text
        assert same(last(events), whole)

    def test_more_tasks_than_places(self, opened: Open) -> None:
        client = opened(max_queue=2, max_batch=2)

        async def ask_all() -> list[Reply]:
            return await asyncio.gather(
                *(client.agenerate(text=f"{n}.", max_new_tokens=2) for n in range(20))
            )

        assert {r.outcome for r in asyncio.run(ask_all())} == {Outcome.ANSWERED}

    def test_a_cancelled_task_frees_the_model_within_a_step(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened()

        async def barge_in() -> int:
            task = asyncio.create_task(client.agenerate(text="Hi.", max_new_tokens=500))
            steps.hold()
            await asyncio.to_thread(steps.wait_until_held)
            count = steps.count
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()
            steps.release()
            return count

        count = asyncio.run(barge_in())
        client.generate(text="Next.", max_new_tokens=2)
        assert steps.count - count <= 3

    def test_a_task_that_waits_for_a_place_can_be_cancelled(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened(max_queue=1)
        steps.hold()
        streams = [client.stream(text="Run.", max_new_tokens=2)]
        steps.wait_until_held()
        streams.append(client.stream(text="Wait.", max_new_tokens=2))

        async def give_up() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.agenerate(text="Late."), 0.1)
            reply = await client.agenerate(text="Late.", timeout=0.1)
            assert reply.outcome is Outcome.TIMEOUT

        asyncio.run(give_up())
        steps.release()
        for stream in streams:
            assert last(list(stream)).outcome is Outcome.ANSWERED
        assert len(client._worker.queue) == 0

    def test_a_bad_clip_is_raised_where_it_is_awaited(self, opened: Open) -> None:
        client = opened()
        with pytest.raises(AudioEmptyError):
            asyncio.run(client.agenerate(audio=b""))
        assert len(client._worker.queue) == 0

    def test_a_loop_that_went_away_frees_the_model(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened()
        loop = asyncio.new_event_loop()
        stream = client.astream(text="Hi.", max_new_tokens=500)
        loop.run_until_complete(stream.__anext__())
        loop.close()
        client.generate(text="Next.", max_new_tokens=2)
        assert steps.count < 100


class TestClosing:
    def test_closing_cancels_what_waits_and_runs(
        self, opened: Open, steps: Steps
    ) -> None:
        client = opened(max_batch=1)
        steps.hold()
        streams = [
            client.stream(text="Hi.", max_new_tokens=500),
            client.stream(text="Wait.", max_new_tokens=500),
        ]
        steps.wait_until_held()
        closer = threading.Thread(target=client.close)
        closer.start()
        steps.release()
        closer.join()
        replies = [last(list(stream)) for stream in streams]
        assert [reply.outcome for reply in replies] == [Outcome.CANCELLED] * 2
        with pytest.raises(ClientClosedError, match="closed"):
            client.generate(text="More.")
        client.close()

    def test_a_dropped_client_leaves_no_thread(
        self, loaded: LoadedModel, tiny_bundle: SteeringBundle
    ) -> None:
        client = SafeAudioLLM.from_loaded(loaded, tiny_bundle)
        client.generate(text="Hi.", max_new_tokens=2)
        del client
        gc.collect()
        names = [thread.name for thread in threading.enumerate()]
        assert "sarguard-worker" not in names
        assert not loaded.decoder.owner._forward_pre_hooks


class TestFaults:
    def test_memory_that_a_smaller_batch_needs_not(
        self, opened: Open, loaded: LoadedModel
    ) -> None:
        client = opened()
        alone = [client.generate(**question) for question in QUESTIONS]
        sizes: list[int] = []

        def run_out(_m: object, args: tuple, kwargs: dict) -> None:
            sizes.append(kwargs["inputs_embeds"].shape[0])
            if sizes[-1] > 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

        loaded.decoder.owner.register_forward_pre_hook(run_out, with_kwargs=True)
        together = client.generate_batch(QUESTIONS)
        assert all(map(same, together, alone))
        assert sizes[:3] == [6, 3, 1]

    def test_memory_that_is_never_enough(
        self, opened: Open, loaded: LoadedModel
    ) -> None:
        client = opened()

        def run_out(*_: object) -> None:
            raise MemoryError("none left")

        handle = loaded.decoder.owner.register_forward_pre_hook(run_out)
        replies = client.generate_batch([{"text": "A."}, {"text": "B."}])
        assert {reply.outcome for reply in replies} == {Outcome.ERROR_CLOSED}
        assert {reply.text for reply in replies} == {FALLBACK}
        handle.remove()
        assert client.generate(text="A.", max_new_tokens=2).outcome is Outcome.ANSWERED

    def test_a_refusal_is_not_tried_again(
        self, opened: Open, steps: Steps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(output_processor, "is_refusal", lambda _text: True)
        client = opened()
        before = steps.count
        assert client.generate(text="Hi.", max_new_tokens=3).outcome is Outcome.REFUSED
        assert steps.count - before == 3

    def test_a_tokenizer_that_fails_costs_one_answer(
        self, opened: Open, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decode = type(loaded.tokenizer).decode
        calls = iter(range(1000))

        def fail_once(self: object, *args: object, **kwargs: object) -> object:
            if next(calls) == 2:
                raise ValueError("no such token")
            return decode(self, *args, **kwargs)

        monkeypatch.setattr(type(loaded.tokenizer), "decode", fail_once)
        client = opened()
        replies = client.generate_batch(
            [{"text": text, "max_new_tokens": 3} for text in ("A.", "B.")]
        )
        outcomes = sorted(reply.outcome.value for reply in replies)
        assert outcomes == ["answered", "error_closed"]

    def test_a_model_set_to_guess_ahead_is_the_callers_error(
        self, opened: Open, loaded: LoadedModel
    ) -> None:
        loaded.model.generation_config.prompt_lookup_num_tokens = 3
        with pytest.raises(ConfigurationError, match="prompt_lookup"):
            opened().generate(text="Hi.")


class Log(OpenGuard):
    """Note what a guard is told; block or fail as asked."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.block: Block | None = None
        self.failing = ""

    def before_model(self, resolved: ResolvedRequest) -> Findings:
        self._note("check")
        return Findings(block=self.block)

    def record_start(self, resolved: ResolvedRequest, found: Findings) -> Findings:
        self._note("start")
        return replace(found, audit_id=f"record-{len(self.notes)}")

    def after_model(
        self,
        request: GenerationRequest,
        resolved: ResolvedRequest | None,
        found: Findings,
        reply: Reply,
        error: Exception | None = None,
    ) -> Reply:
        self._note("end")
        self.notes[-1] = reply.outcome.value
        return reply

    def _note(self, name: str) -> None:
        self.notes.append(name)
        if name == self.failing:
            raise OSError("the disk is full")


class TestGuarding:
    def test_every_request_is_recorded_before_and_after(self, opened: Open) -> None:
        log = Log()
        reply = opened(guard=log).generate(text="Hi.", max_new_tokens=2)
        assert log.notes == ["check", "start", "answered"]
        assert reply.audit_id == "record-2"

    def test_a_blocked_request_is_not_decoded(self, opened: Open, steps: Steps) -> None:
        log = Log()
        log.block = Block(reason="rule 7", message="Not here.")
        client = opened(guard=log)
        before = steps.count
        events = list(client.stream(text="Hi."))
        assert steps.count == before
        assert events[0] == Refusal(outcome=Outcome.BLOCKED, text="Not here.")
        reply = last(events)
        assert (reply.outcome, reply.finish_reason) == (Outcome.BLOCKED, "blocked")
        assert (reply.text, reply.guard.fault) == ("Not here.", "rule 7")
        assert reply.usage.output_tokens == reply.guard.steered_positions == 0
        assert log.notes == ["check", "blocked"]

    @pytest.mark.parametrize("failing", ["check", "start", "end"])
    def test_without_a_record_there_is_no_answer(
        self, opened: Open, failing: str
    ) -> None:
        log = Log()
        log.failing = failing
        reply = opened(guard=log).generate(text="Hi.", max_new_tokens=2)
        assert (reply.outcome, reply.text) == (Outcome.ERROR_CLOSED, FALLBACK)
        assert reply.guard.fault == "OSError: the disk is full"

    def test_a_guard_that_returns_no_reply_keeps_nobody_waiting(
        self, opened: Open
    ) -> None:
        log = Log()
        log.after_model = lambda *_: None  # type: ignore[method-assign,assignment]
        reply = opened(guard=log).generate(text="Hi.", max_new_tokens=2, timeout=30)
        assert (reply.outcome, reply.text) == (Outcome.ERROR_CLOSED, FALLBACK)
        assert "after_model" in (reply.guard.fault or "")

    def test_giving_up_is_recorded_once(self, opened: Open) -> None:
        log = Log()
        with opened(guard=log).stream(text="Hi.", max_new_tokens=500) as stream:
            next(stream)
        assert log.notes == ["check", "start", "cancelled"]


def test_a_reply_says_that_one_channel_alone_was_heard(opened: Open) -> None:
    tone = (0.3 * np.sin(np.arange(16_000) / 20)).astype(np.float32)
    balanced = (np.stack([tone, -tone], axis=1), 16_000)
    client = opened()
    reply = client.generate([balanced], max_new_tokens=1)
    assert reply.audio_notes == (
        "clip 1: the average of its 2 channels lost the sound, so channel 1, the "
        "strongest, was heard alone",
    )
    assert reply.to_dict()["audio_notes"] == reply.audio_notes
    assert client.generate((tone, 16_000), max_new_tokens=1).audio_notes == ()
    *_, done = client.stream([(tone, 16_000), balanced], max_new_tokens=1)
    assert done.reply.audio_notes[0].startswith("clip 2: ")
