"""Every fault on every way in: no unsteered token, and exactly one honest record."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sarguard.audit import verify
from sarguard.audit.log import AuditLog
from sarguard.audit.privacy.content import Privacy
from sarguard.client import FALLBACK, SafeAudioLLM
from sarguard.errors import AudioEmptyError, AuditWriteError, QueueFullError
from sarguard.guard import policy_guard
from sarguard.guard.check_runner import Checks
from sarguard.guard.checks import InputCheck
from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.serving import batch_engine, request_state
from sarguard.serving.backend import GenerationJob
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.gate import Gate
from sarguard.types import Done, Outcome, Reply, TextDelta
from tests.guard.conftest import CLIP, Open, records
from tests.serving.fakes import opening

Patch = pytest.MonkeyPatch
Way = Callable[[SafeAudioLLM], Reply]
QUESTION = {"audio": CLIP, "text": "Hi.", "max_new_tokens": 4}


def stream(client: SafeAudioLLM) -> Reply:
    events = list(client.stream(**QUESTION))
    assert isinstance(events[-1], Done)
    reply = events[-1].reply
    if reply.outcome is not Outcome.ANSWERED:
        # What was streamed before the end's record failed was proven step by step.
        said = any(isinstance(event, TextDelta) for event in events)
        assert said == bool(reply.usage.output_tokens)
    return reply


async def _last(client: SafeAudioLLM) -> Reply:
    events = [event async for event in client.astream(**QUESTION)]
    assert isinstance(events[-1], Done)
    return events[-1].reply


WAYS: dict[str, Way] = {
    "generate": lambda client: client.generate(**QUESTION),
    "stream": stream,
    "batch": lambda client: client.generate_batch([QUESTION])[0],
    "agenerate": lambda client: asyncio.run(client.agenerate(**QUESTION)),
    "astream": lambda client: asyncio.run(_last(client)),
}


def _raise(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def _once(patch: Patch, owner: type, name: str, error: Exception) -> None:
    real, calls = getattr(owner, name), iter(range(1000))

    def fail(self: object, *args: object, **kwargs: object) -> object:
        if next(calls) == 0:
            raise error
        return real(self, *args, **kwargs)

    patch.setattr(owner, name, fail)


def remove_hooks(client: SafeAudioLLM, patch: Patch) -> None:
    client._backend.loaded.decoder.layers[1]._forward_hooks.clear()


def change_vectors(client: SafeAudioLLM, patch: Patch) -> None:
    client._backend.steerer._vectors[0].mul_(0.01)


def break_decoding(client: SafeAudioLLM, patch: Patch) -> None:
    patch.setattr(batch_engine, "decode_rows", _raise(RuntimeError("device lost")))


def break_inputs(client: SafeAudioLLM, patch: Patch) -> None:
    patch.setattr(batch_engine, "write_batch", _raise(TypeError("processor choked")))


def run_out_of_memory(client: SafeAudioLLM, patch: Patch) -> None:
    patch.setattr(batch_engine, "decode_rows", _raise(MemoryError("none left")))


def break_check(client: SafeAudioLLM, patch: Patch) -> None:
    check = InputCheck(name="words", run=_raise(OSError("no transcriber")))  # type: ignore[arg-type]
    client._guard._checks = Checks(input=(check,))  # type: ignore[attr-defined]


def fill_disk_at_start(client: SafeAudioLLM, patch: Patch) -> None:
    _once(patch, AuditLog, "started", AuditWriteError("disk full"))


def fill_disk_at_end(client: SafeAudioLLM, patch: Patch) -> None:
    _once(patch, AuditLog, "finished", AuditWriteError("disk full"))


def close_log(client: SafeAudioLLM, patch: Patch) -> None:
    fail = _raise(ValueError("I/O operation on closed file"))
    log = SimpleNamespace(error=fail, warning=fail)
    for module in (request_state, policy_guard):
        patch.setattr(module, "_log", log)
    break_decoding(client, patch)


def lose_keyring(client: SafeAudioLLM, patch: Patch) -> None:
    patch.setattr(Privacy, "pseudonyms", _raise(AuditWriteError("keys unwritable")))


FAULTS = {
    remove_hooks: "SteeringRemovedError",
    change_vectors: None,
    break_decoding: "RuntimeError",
    break_inputs: "TypeError",
    run_out_of_memory: "MemoryError",
    break_check: "OSError",
    fill_disk_at_start: "AuditWriteError",
    fill_disk_at_end: "AuditWriteError",
    lose_keyring: "AuditWriteError",
    close_log: "RuntimeError",
}


def only_record(client: SafeAudioLLM) -> tuple[object, object]:
    (begun,) = records(client, "request_started")
    (ended,) = records(client, "request_finished")
    assert begun.audit_id == ended.audit_id
    return begun, ended


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("way", WAYS)
def test_a_fault_costs_the_answer_and_leaves_one_record(
    opened: Open, monkeypatch: Patch, way: str, fault: Callable[..., None]
) -> None:
    client = opened()
    fault(client, monkeypatch)
    reply = WAYS[way](client)
    assert (reply.outcome, reply.text) == (Outcome.ERROR_CLOSED, FALLBACK)
    begun, ended = only_record(client)
    assert begun.entry == way
    assert ended.outcome is Outcome.ERROR_CLOSED
    assert reply.audit_id == ended.audit_id
    assert ended.fault.type == (FAULTS[fault] or ended.fault.type)
    assert ended.receipt is None or not ended.receipt.attested
    assert ended.fallback.message_id == "default.en.error"
    unsteered = fault in (remove_hooks, change_vectors)
    events = records(client, "integrity_failed")
    assert [e.request for e in events] == ([ended.audit_id] if unsteered else [])


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_recorded_before_and_after(opened: Open, way: str) -> None:
    client = opened()
    reply = WAYS[way](client)
    begun, ended = only_record(client)
    assert begun.entry == way
    assert ended.outcome is reply.outcome is Outcome.ANSWERED
    assert begun.seq < ended.seq
    assert ended.receipt.attested
    assert ended.receipt.steered_positions == ended.receipt.expected_positions == 4
    assert (ended.dose.tier, ended.dose.alpha) == (
        "balanced",
        round(reply.guard.alpha, 6),
    )
    assert ended.scores[0].value == round(reply.guard.score, 6)
    assert reply.audit_id == ended.audit_id


@pytest.mark.parametrize("score", [torch.nan, torch.inf])
@pytest.mark.parametrize("way", WAYS)
def test_a_score_that_is_no_number_blocks(
    opened: Open, monkeypatch: Patch, way: str, score: float
) -> None:
    client = opened()
    monkeypatch.setattr(
        Gate,
        "score",
        lambda _gate, states, _kind: torch.full((states.shape[1],), score),
    )
    assert WAYS[way](client).outcome is Outcome.BLOCKED
    assert only_record(client)[1].outcome is Outcome.BLOCKED


@pytest.mark.parametrize("way", WAYS)
def test_a_clip_that_is_no_clip(opened: Open, monkeypatch: Patch, way: str) -> None:
    client = opened()
    monkeypatch.setitem(QUESTION, "audio", b"")
    with pytest.raises(AudioEmptyError):
        WAYS[way](client)
    ended = only_record(client)[1]
    assert ended.outcome is Outcome.ERROR_CLOSED
    assert (ended.fault.type, ended.fallback.reason) == (
        "AudioEmptyError",
        "unsupported_audio",
    )


def test_a_full_line_is_recorded_as_such(opened: Open, monkeypatch: Patch) -> None:
    client = opened()
    monkeypatch.setattr(
        client._worker, "reserve", _raise(QueueFullError("all places taken"))
    )
    with pytest.raises(QueueFullError):
        client.generate(**QUESTION)
    assert only_record(client)[1].fault.type == "QueueFullError"


def test_giving_up_and_running_out_of_time_are_told_apart(opened: Open) -> None:
    client = opened()
    with client.stream(text="Hi.", max_new_tokens=200) as held:
        next(held)
    late = client.generate(text="Hi.", timeout=1e-6)
    assert late.text == DEFAULT_MESSAGES["en"][Reason.TIMEOUT]
    outcomes = [record.outcome for record in records(client, "request_finished")]
    assert outcomes == [Outcome.CANCELLED, Outcome.TIMEOUT]


def test_a_ledger_that_stays_broken_answers_nobody(
    opened: Open, monkeypatch: Patch
) -> None:
    client = opened()
    error = AuditWriteError("disk full")
    monkeypatch.setattr(AuditLog, "started", _raise(error))
    reply = client.generate(**QUESTION)
    assert (reply.outcome, reply.text) == (Outcome.ERROR_CLOSED, FALLBACK)
    assert reply.usage.output_tokens == 0


def test_threads_leave_one_record_each(opened: Open) -> None:
    client = opened()
    threads = [
        threading.Thread(target=client.generate, kwargs=QUESTION) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = records(client, "request_finished")
    assert len({record.audit_id for record in ended}) == len(ended) == 6


@pytest.mark.parametrize("way", ["generate", "stream", "batch", "agenerate", "astream"])
def test_the_record_holds_what_had_gone_out_before_a_fault(
    way: str, tiny_bundle: SteeringBundle, tmp_path: Path
) -> None:
    ledger = tmp_path / "audit.db"
    asked = {**QUESTION, "max_new_tokens": 40}
    words = "The answer to that is quite long. "
    with opening(tiny_bundle, words) as open_fake:
        client, backend = open_fake(audit=ledger)
        whole = backend._answer

        def break_down(job: GenerationJob) -> None:
            backend.says = words[:30]
            job = replace(job, request=replace(job.request, max_new_tokens=99))
            sink = job.sink
            backend.says += "."  # Its last letter, which ends an answer, is not sent.
            step = sink.step
            sink.step = lambda s: step(s) if s.ending is None else None  # type: ignore[method-assign]
            whole(job)
            raise RuntimeError("device lost")

        backend._answer = break_down  # type: ignore[method-assign]
        heard = ""
        if way == "stream":
            for event in client.stream(**asked):
                heard += event.text if isinstance(event, TextDelta) else ""
        elif way == "astream":

            async def listen() -> str:
                events = [event async for event in client.astream(**asked)]
                return "".join(e.text for e in events if isinstance(e, TextDelta))

            heard = asyncio.run(listen())
        elif way == "batch":
            client.generate_batch([asked])
        elif way == "agenerate":
            asyncio.run(client.agenerate(**asked))
        else:
            client.generate(**asked)
        (ended,) = records(client, "request_finished")
        assert ended.outcome is Outcome.ERROR_CLOSED
        assert ended.output.text_chars == len(FALLBACK)
        if way not in ("stream", "astream"):
            assert ended.said_before is None
            return
        assert 20 < len(heard) <= 30
        assert ended.said_before.text_chars == len(heard)
        marks = Privacy.open(ledger).pseudonyms(None)
        assert ended.said_before.text_mark == marks.text(heard)
        assert ended.schema_version == 2
    assert verify(ledger).ok
