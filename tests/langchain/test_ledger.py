"""The ledger keeps its records, whatever LangChain's callbacks do beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_sarguard import (
    AudioStore,
    ChatSafeAudio,
    InvalidInputError,
    VoicePipelineStage,
    audio_message,
)

from sarguard import AuditLog, SafeAudioLLM, SteeringBundle
from sarguard.audit import Query, verify
from tests import tiny
from tests.langchain.fakes import encoded, wav
from tests.langchain.naive import naive

EVENTS = ("on_chat_model_start", "on_llm_new_token", "on_llm_end")
VOICE = wav(0.4)


class FailingHandler(BaseCallbackHandler):
    """Callback that keeps records, as applications do, on a full disk."""

    def __init__(self, event: str, *, raises: bool) -> None:
        self.raise_error = raises
        self.records: list[object] = []
        setattr(self, event, self._write)

    def _write(self, *_: object, **__: object) -> None:
        raise OSError("the disk is full")


@pytest.fixture
def client(tiny_bundle: SteeringBundle, tmp_path: Path) -> Iterator[SafeAudioLLM]:
    loaded = tiny.build()
    with SafeAudioLLM.from_model(
        loaded.model,
        loaded.processor,
        bundle=tiny_bundle,
        alpha=0.1,
        audit=tmp_path / "audit.db",
    ) as client:
        yield client


def ledger(client: SafeAudioLLM) -> AuditLog:
    assert client.audit is not None
    return client.audit


def outcomes(client: SafeAudioLLM) -> list[str]:
    records: Any = [entry.record for entry in ledger(client).entries()]
    return [str(r.outcome) for r in records if r.kind == "request_finished"]


METHODS: dict[str, Callable[[ChatSafeAudio, Any], object]] = {
    "invoke": lambda chat, config: chat.invoke("Hello.", config),
    "stream": lambda chat, config: list(chat.stream("Hello.", config)),
    "batch": lambda chat, config: chat.batch(["Hello."], config),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("method", METHODS)
class TestARaisingCallback:
    def test_a_naive_model_keeps_no_record(self, method: str, event: str) -> None:
        handler = FailingHandler(event, raises=False)
        model: Any = naive()
        METHODS[method](model, {"callbacks": [handler]})
        assert (len(model.client.requests), handler.records) == (1, [])

    def test_it_changes_nothing_about_the_record(
        self, client: SafeAudioLLM, method: str, event: str
    ) -> None:
        chat = client.as_langchain(max_tokens=3)
        METHODS[method](chat, {"callbacks": [FailingHandler(event, raises=False)]})
        assert len(outcomes(client)) == 1
        assert list(ledger(client).unfinished()) == []

    def test_it_may_stop_the_call_but_not_the_record(
        self, client: SafeAudioLLM, method: str, event: str
    ) -> None:
        chat = client.as_langchain(max_tokens=3)
        config = {"callbacks": [FailingHandler(event, raises=True)]}
        silent = event == "on_llm_new_token" and method != "stream"
        if silent:
            METHODS[method](chat, config)
        else:
            with pytest.raises(OSError, match="the disk is full"):
                METHODS[method](chat, config)
        # There is a record exactly where the model was asked.
        assert len(outcomes(client)) == (0 if event == "on_chat_model_start" else 1)
        assert list(ledger(client).unfinished()) == []


def test_the_record_names_the_message_and_holds_no_audio(
    client: SafeAudioLLM, tmp_path: Path
) -> None:
    chat = client.as_langchain(max_tokens=3)
    message = chat.invoke([audio_message(VOICE, "Hear.")])
    metadata = message.response_metadata
    started, finished = ledger(client).request(metadata["audit_id"])
    record: Any = finished.record
    assert str(record.outcome) == metadata["outcome"]
    assert b"langchain" in started.data
    ledger(client).close()
    for path in tmp_path.iterdir():
        written = path.read_bytes()
        assert VOICE[200:260] not in written
        assert encoded(VOICE)[200:280].encode() not in written


class TestWhatNeverReachedTheModel:
    """A request that fails before the client is asked is in the ledger all the same."""

    @pytest.mark.parametrize(
        ("ask", "fault"),
        [
            (lambda c: c.invoke([AIMessage("Hello.")]), "InvalidInputError"),
            (
                lambda c: c.invoke(
                    [HumanMessage([{"type": "audio", "file_id": "sar_" + "0" * 32}])]
                ),
                "AudioHandleError",
            ),
            (lambda c: c.invoke("Hello.", alpha=0.0), "InvalidInputError"),
            (
                lambda c: c.invoke("Hello.", json_schema={"type": "poem"}),
                "InvalidRequestError",
            ),
            (lambda c: c.model_copy(update={"cache": True}).invoke("Hello."), None),
            (lambda c: replaced(c).invoke("Hello."), "UnguardedModelError"),
        ],
        ids=["parsing", "handle", "option", "schema", "cache", "stand-in"],
    )
    def test_a_failure_leaves_a_record(
        self, client: SafeAudioLLM, ask: Any, fault: str | None
    ) -> None:
        chat = ChatSafeAudio.from_client(client, max_tokens=2)
        with pytest.raises(Exception, match=r"\w") as raised:
            ask(chat)
        records: Any = [entry.record for entry in ledger(client).entries()]
        finished = [r for r in records if r.kind == "request_finished"]
        started = [r for r in records if r.kind == "request_started"]
        assert outcomes(client) == ["error_closed"]
        assert [r.entry for r in started] == ["langchain"]
        assert finished[0].fault.type == (fault or type(raised.value).__name__)

    def test_it_names_who_asked(self, client: SafeAudioLLM) -> None:
        chat = ChatSafeAudio.from_client(client)
        with pytest.raises(InvalidInputError):
            chat.invoke([AIMessage("Hello.")], tenant="bank", session="call-1")
        assert [e.record.kind for e in ledger(client).search(Query(tenant="bank"))]


def replaced(chat: ChatSafeAudio) -> Any:
    both: Any = chat.with_fallbacks([chat])
    both.fallbacks = [FakeListChatModel(responses=["Unguarded."])]
    return both


def test_the_ledger_says_what_was_let_go(client: SafeAudioLLM) -> None:
    chat = ChatSafeAudio.from_client(client, max_tokens=2, audio_store=AudioStore())
    stage = VoicePipelineStage(chat)
    list(stage.transform(iter([VOICE, VOICE]), None, session="call-1", tenant="bank"))
    asked = [audio_message(VOICE, audio_store=chat.audio_store)]
    chat.invoke(asked, {"configurable": {"thread_id": "t-1"}})
    chat.end_session("t-1")
    records: Any = [entry.record for entry in ledger(client).entries()]
    released = [r for r in records if r.kind == "audio_released"]
    assert [(r.tenant, r.clips, r.bytes) for r in released] == [
        ("bank", 2, 2 * len(VOICE)),
        (None, 1, len(VOICE)),
    ]
    # By pseudonyms, as in every other record.
    assert "call-1" not in repr(released)
    path = ledger(client).path
    client.close()
    assert verify(path).ok
