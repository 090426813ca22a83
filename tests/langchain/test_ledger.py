"""Hold the ledger to its records, whatever LangChain's callbacks do beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_sarguard import ChatSafeAudio, audio_message

from sarguard import AuditLog, SafeAudioLLM, SteeringBundle
from tests import tiny
from tests.langchain.fakes import encoded, wav
from tests.langchain.naive import naive

EVENTS = ("on_chat_model_start", "on_llm_new_token", "on_llm_end")
SOUND = wav(0.4)


class Notebook(BaseCallbackHandler):
    """Keep records in a callback, as people do, on a disk that is full."""

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


WAYS: dict[str, Callable[[ChatSafeAudio, Any], object]] = {
    "invoke": lambda chat, told: chat.invoke("Hello.", told),
    "stream": lambda chat, told: list(chat.stream("Hello.", told)),
    "batch": lambda chat, told: chat.batch(["Hello."], told),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("way", WAYS)
class TestARaisingCallback:
    def test_the_hole_answers_without_a_record(self, way: str, event: str) -> None:
        notebook = Notebook(event, raises=False)
        model: Any = naive()
        WAYS[way](model, {"callbacks": [notebook]})
        assert (len(model.client.requests), notebook.records) == (1, [])

    def test_it_changes_nothing_about_the_record(
        self, client: SafeAudioLLM, way: str, event: str
    ) -> None:
        chat = client.as_langchain(max_tokens=3)
        WAYS[way](chat, {"callbacks": [Notebook(event, raises=False)]})
        assert len(outcomes(client)) == 1
        assert list(ledger(client).unfinished()) == []

    def test_nor_where_it_stops_the_call(
        self, client: SafeAudioLLM, way: str, event: str
    ) -> None:
        chat = client.as_langchain(max_tokens=3)
        told = {"callbacks": [Notebook(event, raises=True)]}
        silent = event == "on_llm_new_token" and way != "stream"
        if silent:
            WAYS[way](chat, told)
        else:
            with pytest.raises(OSError, match="the disk is full"):
                WAYS[way](chat, told)
        # What the model was asked is on record; what it was not asked is not.
        assert len(outcomes(client)) == (0 if event == "on_chat_model_start" else 1)
        assert list(ledger(client).unfinished()) == []


def test_the_record_names_the_message_and_holds_no_sound(
    client: SafeAudioLLM, tmp_path: Path
) -> None:
    chat = client.as_langchain(max_tokens=3)
    message = chat.invoke([audio_message(SOUND, "Hear.")])
    metadata = message.response_metadata
    started, finished = ledger(client).request(metadata["audit_id"])
    record: Any = finished.record
    assert str(record.outcome) == metadata["outcome"]
    assert b"langchain" in started.data
    ledger(client).close()
    for path in tmp_path.iterdir():
        written = path.read_bytes()
        assert SOUND[200:260] not in written
        assert encoded(SOUND)[200:280].encode() not in written
