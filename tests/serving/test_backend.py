"""The seam: a client, a guard and a ledger over a backend of plain Python."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sarguard.client import FALLBACK, SafeAudioLLM
from sarguard.errors import ClientClosedError, ConfigurationError, InvalidRequestError
from sarguard.guard.recorder import AuditRecorder
from sarguard.serving.backend import BackendStep, SteeringReceipt
from sarguard.serving.observers import Observer, RequestEvent
from sarguard.serving.request import TraceContext
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import Decision, DoseRule, DoseSpec
from sarguard.types import Done, Outcome, Refusal, TextDelta, Usage
from tests.serving.fakes import FakeBackend, OpenGuard, opening
from tests.serving.fakes import OpenFake as Open

SAYS = "It is noon."
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def opened(tiny_bundle: SteeringBundle) -> Iterator[Open]:
    with opening(tiny_bundle, SAYS) as open_client:
        yield open_client


def test_it_answers_whole_in_pieces_and_in_batches(opened: Open) -> None:
    client, backend = opened()
    assert backend.opened
    reply = client.generate(text="What time is it?", session="s")
    assert (reply.text, reply.outcome) == (SAYS, Outcome.ANSWERED)
    assert reply.guard.steered_positions == reply.usage.output_tokens == len(SAYS)
    assert (reply.guard.mode, reply.guard.alpha) == ("faithful", 0.1)
    events = list(client.stream(text="And now?"))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == SAYS
    assert asyncio.run(client.agenerate(text="And?")).text == SAYS
    assert [r.text for r in client.generate_batch([{"text": "A"}, {"text": "B"}])] == [
        SAYS,
        SAYS,
    ]
    client.close()
    assert backend.closed


def test_stop_strings_and_limits_are_the_clients(opened: Open) -> None:
    client, _ = opened()
    assert client.generate(text="A", stop=" noon").text == "It is"
    assert client.generate(text="A", max_new_tokens=2).finish_reason == "length"


def test_a_request_can_be_built_before_it_is_sent(opened: Open) -> None:
    client, _ = opened()
    request = client.build_request(text="A", max_new_tokens=5)
    assert isinstance(list(client.send(request))[-1], Done)

    async def ask() -> str:
        async with client.asend(request) as stream:
            return "".join([e.text async for e in stream if isinstance(e, TextDelta)])

    assert asyncio.run(ask()) == SAYS[:5]


def test_a_dose_reaches_the_backend_as_plain_data(opened: Open) -> None:
    rule = DoseRule(floor=0.1, ceiling=0.4, low=-1, high=1, block=2.0)
    client, backend = opened(dose=DoseSpec(rule=rule))
    backend.score = 0.0
    assert client.generate(text="A").guard.alpha == pytest.approx(0.25)
    backend.score = 2.5
    reply = client.generate(text="A")
    assert (reply.outcome, reply.guard.score) == (Outcome.BLOCKED, 2.5)
    assert reply.usage.output_tokens == 0


def test_an_unproven_token_never_leaves(opened: Open) -> None:
    client, backend = opened()
    backend.skips_steering = True
    events = list(client.stream(text="A"))
    assert [type(event) for event in events] == [Refusal, Done]
    reply = events[-1].reply  # type: ignore[union-attr]
    assert (reply.outcome, reply.text) == (Outcome.ERROR_CLOSED, FALLBACK)
    assert "steered" in (reply.guard.fault or "")


def test_vectors_of_another_bundle_are_no_proof(opened: Open) -> None:
    client, backend = opened()
    honest = backend._answer

    def lying(job: Any) -> None:  # noqa: ANN401
        info, backend.info = backend.info, _renamed(backend.info)
        honest(job)
        backend.info = info

    backend._answer = lying  # type: ignore[method-assign]
    assert client.generate(text="A").outcome is Outcome.ERROR_CLOSED


def test_an_ending_that_nobody_knows_is_no_answer(opened: Open) -> None:
    client, backend = opened()

    def crashing(job: Any) -> None:  # noqa: ANN401
        job.sink.step(BackendStep(ending="crashed"))  # type: ignore[arg-type]

    backend._answer = crashing  # type: ignore[method-assign]
    reply = client.generate(text="A")
    assert reply.outcome is Outcome.ERROR_CLOSED
    assert "crashed" in (reply.guard.fault or "")


NAN = float("nan")


@pytest.mark.parametrize(
    "lie",
    [
        {"output_tokens": 0},
        {"output_tokens": 0, "decision": None, "receipt": None},
        {"output_tokens": 1},
        {"output_tokens": -2},
        {"alpha": 0.05},
        {"alpha": NAN},
        {"bare": True},
        {"blocked": True},
        {"score": NAN},
        {"score": 2.5},
        {"score": None},
    ],
)
def test_nothing_leaves_that_a_backend_miscounts_or_doses_otherwise(
    opened: Open, lie: dict[str, Any]
) -> None:
    rule = DoseRule(floor=0.1, ceiling=0.4, low=-1, high=1, block=2.0)
    client, backend = opened(dose=DoseSpec(rule=rule))

    def lying(job: Any) -> None:  # noqa: ANN401
        dosed = {
            name: value for name, value in lie.items() if name in Decision.__slots__
        }
        counted = {name: value for name, value in lie.items() if name not in dosed}
        decision = replace(job.request.dose.decide(-1.0), **dosed)
        tokens = counted.get("output_tokens", 2)
        receipt = SteeringReceipt(
            steered_positions=0 if decision.bare else tokens,
            layers=backend.info.layers,
            vectors_digest=backend.info.vectors_digest,
        )
        step = BackendStep(
            token_ids=(65, 66),
            output_tokens=tokens,
            decision=decision,
            receipt=receipt,
            ending="stop",
        )
        job.sink.step(replace(step, **counted))

    backend._answer = lying  # type: ignore[method-assign]
    events = list(client.stream(text="A"))
    assert [type(event) for event in events] == [Refusal, Done]
    assert events[-1].reply.outcome is Outcome.ERROR_CLOSED  # type: ignore[union-attr]
    assert "SteeringNotApplied" in events[-1].reply.guard.fault  # type: ignore


def _renamed(info: Any) -> Any:  # noqa: ANN401
    return replace(info, vectors_digest="0" * 64)


def test_a_backend_that_forgets_a_request_keeps_nobody_waiting(
    opened: Open,
) -> None:
    client, backend = opened()
    backend.forgets = True
    reply = client.generate(text="A")
    assert reply.outcome is Outcome.ERROR_CLOSED
    assert "without ending" in (reply.guard.fault or "")


@pytest.mark.parametrize("failure", [OSError, SystemExit])
def test_a_backend_that_raises_costs_its_batch_and_no_more(
    opened: Open, failure: type[BaseException]
) -> None:
    client, backend = opened()
    honest = backend.generate

    def failing(jobs: Any) -> None:  # noqa: ANN401
        backend.generate = honest  # type: ignore[method-assign]
        raise failure

    backend.generate = failing  # type: ignore[method-assign]
    reply = client.generate(text="A", timeout=10)
    assert reply.outcome is Outcome.ERROR_CLOSED
    assert failure.__name__ in (reply.guard.fault or "")
    assert client.generate(text="A", timeout=10).text == SAYS


def test_a_request_that_fits_no_batch_costs_nobody_else(opened: Open) -> None:
    client, backend = opened()
    honest = backend.batch_key

    def failing(request: Any) -> None:  # noqa: ANN401
        raise ValueError("what is this?")

    backend.batch_key = failing  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="what is this"):
        client.generate(text="A", timeout=10)
    backend.batch_key = honest  # type: ignore[method-assign]
    assert client.generate(text="A", timeout=10).text == SAYS
    assert client.health().queue_depth == 0


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_tokens", "max_new_tokens"),
        ("temprature", "temperature"),
        ("session_id", "session"),
    ],
)
@pytest.mark.parametrize("way", ["generate", "stream", "astream", "build_request"])
def test_an_unknown_option_is_told_the_right_one(
    opened: Open, way: str, name: str, meant: str
) -> None:
    client, _ = opened()
    with pytest.raises(InvalidRequestError, match=f"did you mean {meant}"):
        getattr(client, way)(text="A", **{name: 5})
    with pytest.raises(InvalidRequestError, match=meant):
        client.generate_batch([{"text": "A", name: 5}])  # type: ignore[misc]


def test_an_unknown_option_of_a_client_is_an_error(opened: Open) -> None:
    with pytest.raises(ConfigurationError, match="did you mean max_batch"):
        opened(maxbatch=3)


def test_a_client_that_cannot_open_leaves_its_model_free(
    opened: Open,
    tiny_bundle: SteeringBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(AuditRecorder, "loaded", full)
    card = tiny_bundle.card
    backend = FakeBackend(SAYS, vectors_digest=card.vectors_digest, layers=card.layers)
    with pytest.raises(OSError, match="full"):
        SafeAudioLLM(backend, tiny_bundle, alpha=0.1, audit=tmp_path / "audit.db")
    assert (backend.opened, backend.closed) == (True, True)


@pytest.mark.parametrize("name", ["input_checks", "output_checks", "transcriber"])
def test_a_guard_of_ones_own_leaves_no_check_unused(opened: Open, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        opened(guard=OpenGuard(), **{name: ["a check"]})


@pytest.mark.parametrize(
    "bad",
    [
        *("", "00-0-0-0", TRACE.upper(), "ff" + TRACE[2:]),
        *(TRACE + "x", TRACE + "-x", TRACE + "\n", "01" + TRACE[2:] + "x"),
    ],
)
def test_a_broken_trace_context_is_an_error(opened: Open, bad: str) -> None:
    client, _ = opened()
    with pytest.raises(InvalidRequestError, match="W3C"):
        client.generate(text="A", traceparent=bad)


def test_a_trace_context_of_a_later_version_is_read() -> None:
    assert TraceContext.parse("01" + TRACE[2:] + "-more") == TraceContext.parse(TRACE)


def test_the_ledger_names_the_trace_and_the_caller(
    opened: Open, tmp_path: Path
) -> None:
    client, _ = opened(audit=tmp_path / "audit.db")
    plain = client.generate(text="A")
    traced = client.generate(text="A", traceparent=TRACE, caller="Ann")
    assert client.audit is not None

    def begun(audit_id: str | None) -> Any:  # noqa: ANN401
        return client.audit.request(audit_id or "")[0].record  # type: ignore[union-attr]

    assert begun(traced.audit_id).trace_id == TRACE.split("-")[1]
    assert begun(traced.audit_id).span_id == TRACE.split("-")[2]
    assert begun(traced.audit_id).actor not in (None, "Ann")
    assert (begun(plain.audit_id).trace_id, begun(plain.audit_id).actor) == (None, None)


class Recording(Observer):
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[RequestEvent] = []

    def received(self, event: RequestEvent) -> None:
        self.events.append(event)

    admitted = started = first_token = finished = received

    def stages(self, request: int) -> list[str]:
        return [event.stage for event in self.events if event.request == request]


class Failing(Observer):
    """An observer that raises at every turn."""

    def received(self, event: RequestEvent) -> None:
        raise RuntimeError("a dashboard is down")

    admitted = started = first_token = finished = received


class TestObservers:
    def test_each_hears_every_stage_once_and_a_failing_one_changes_nothing(
        self, opened: Open, tmp_path: Path
    ) -> None:
        first, last = Recording(), Recording()
        client, _ = opened(
            observers=[first, Failing(), last], audit=tmp_path / "audit.db"
        )
        reply = client.generate(text="A", traceparent=TRACE, tenant="acme")
        assert (reply.text, reply.outcome) == (SAYS, Outcome.ANSWERED)
        number = last.events[0].request
        stages = ["received", "admitted", "started", "first_token", "finished"]
        assert first.stages(number) == last.stages(number) == stages
        end = last.events[-1]
        assert (end.reply, end.error) == (reply, None)
        assert end.audit_id == reply.audit_id is not None
        assert end.context.tenant == "acme"
        assert end.context.trace is not None
        times = [event.elapsed_s for event in last.events]
        assert times == sorted(times)

    def test_a_request_that_is_turned_away_ends_too(self, opened: Open) -> None:
        seen = Recording()
        client, _ = opened(observers=[seen])
        with pytest.raises(InvalidRequestError):
            client.generate(text=" ")
        assert [event.stage for event in seen.events] == ["received", "finished"]
        assert isinstance(seen.events[-1].error, InvalidRequestError)
        assert seen.events[-1].reply is None

    @pytest.mark.parametrize("bad", [{"text": " "}, {"text": "B", "alpha": -1.0}])
    def test_all_of_a_batch_end_where_one_is_turned_away(
        self, opened: Open, tmp_path: Path, bad: dict[str, Any]
    ) -> None:
        seen = Recording()
        client, _ = opened(observers=[seen], audit=tmp_path / "audit.db")
        with pytest.raises(InvalidRequestError):
            client.generate_batch([{"text": "A"}, bad, {"text": "C"}])  # type: ignore
        heard = {event.request for event in seen.events}
        stages = [seen.stages(number) for number in heard]
        assert all((s[0], s[-1]) == ("received", "finished") for s in stages)
        kinds = [entry.record.kind for entry in client.audit.entries()]  # type: ignore
        assert kinds.count("request_finished") == len(heard)

    def test_a_blocked_one_and_a_cancelled_one_end_once(self, opened: Open) -> None:
        seen = Recording()
        rule = DoseRule(floor=0.1, ceiling=0.4, low=-1, high=1, block=0.0)
        client, backend = opened(observers=[seen], dose=DoseSpec(rule=rule))
        backend.score = 1.0
        client.generate(text="A")
        assert [event.stage for event in seen.events][-1] == "finished"
        assert [event.stage for event in seen.events].count("finished") == 1

    @pytest.mark.parametrize("stage", ["started", "first_token", "finished"])
    def test_one_that_asks_on_the_models_thread_waits_for_nothing(
        self, opened: Open, stage: str
    ) -> None:
        failures: list[Exception] = []

        def ask(event: RequestEvent) -> None:
            if not failures:
                try:
                    client.generate(text="And you?", timeout=10)
                except ConfigurationError as error:
                    failures.append(error)

        observer = Observer()
        setattr(observer, stage, ask)
        client, _ = opened(observers=[observer])
        assert client.generate(text="A", timeout=10).text == SAYS
        assert "thread of your own" in str(failures[0])

    def test_what_a_retry_begins_again_is_heard_of_once(
        self, opened: Open, tmp_path: Path
    ) -> None:
        seen = Recording()
        client, backend = opened(" " + SAYS, observers=[seen], audit=tmp_path / "a.db")
        honest = backend._answer

        def retrying(job: Any) -> None:  # noqa: ANN401
            # The first token is white space, which nobody has heard yet.
            backend.says = " "
            job.sink.begin(Usage(prompt_tokens=1, audio_tokens=0, output_tokens=0))
            step = BackendStep(
                token_ids=(32,),
                output_tokens=1,
                decision=job.request.dose.decide(None),
                receipt=SteeringReceipt(
                    steered_positions=1,
                    layers=backend.info.layers,
                    vectors_digest=backend.info.vectors_digest,
                ),
            )
            job.sink.step(step)
            backend.says = SAYS
            honest(job)

        backend._answer = retrying  # type: ignore[method-assign]
        reply = client.generate(text="A", timeout=10)
        assert (reply.text, reply.outcome) == (SAYS, Outcome.ANSWERED)
        assert reply.timings.prefill_s >= 0
        assert seen.stages(seen.events[0].request) == [
            *("received", "admitted", "started", "first_token", "finished")
        ]

    def test_an_end_at_the_first_token_has_its_proof_and_its_count(
        self, opened: Open, tmp_path: Path
    ) -> None:
        asked, closed = threading.Event(), threading.Event()

        def close(event: RequestEvent) -> None:
            asked.wait(10)
            stream.close()
            closed.set()

        observer = Observer()
        observer.first_token = close  # type: ignore[method-assign]
        client, _ = opened(observers=[observer], audit=tmp_path / "a.db")
        stream = client.stream(text="A")
        asked.set()
        assert closed.wait(10)
        records = [entry.record for entry in client.audit.entries()]  # type: ignore
        (ended,) = (r for r in records if r.kind == "request_finished")
        assert (ended.outcome, ended.usage.output_tokens) == (Outcome.CANCELLED, 1)
        assert ended.receipt.attested


class TestHealth:
    def test_it_is_public_and_waits_for_nothing(
        self, opened: Open, tmp_path: Path
    ) -> None:
        client, _ = opened(audit=tmp_path / "audit.db", max_queue=7)
        found = client.health()
        assert (found.model, found.ledger) == ("ready", "recording")
        assert (found.queue_depth, found.queue_limit, found.running) == (0, 7, 0)
        client.close()
        assert client.health().model == client.health().ledger == "closed"
        with pytest.raises(ClientClosedError):
            client.generate(text="A")

    def test_without_a_ledger_there_is_none(self, opened: Open) -> None:
        assert opened()[0].health().ledger == "none"
