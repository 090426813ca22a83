"""The runnable and the voice stage: audio in, messages and events out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_sarguard import (
    AudioStore,
    ChatSafeAudio,
    EndpointingOptions,
    InvalidInputError,
    SafeAudioRunnable,
    VoicePipelineStage,
)

from sarguard import Outcome
from tests.langchain.fakes import RATE, FakeClient, failing, refusing, wav


def pcm(seconds: float, *, level: float = 0.3) -> bytes:
    wave = level * np.sin(np.arange(int(seconds * RATE)) * 0.1)
    return (wave * 32767).astype("<i2").tobytes()


def kinds(events: Any) -> list[str]:
    return [event.type for event in events]


class TestTheRunnable:
    def test_every_method_gives_the_answer(self) -> None:
        runnable = SafeAudioRunnable(ChatSafeAudio.from_client(FakeClient("One two.")))
        text = runnable | StrOutputParser()

        async def pieces() -> list[str]:
            return [piece async for piece in text.astream(wav())]

        assert runnable.invoke(wav()).content == "One two."
        assert text.invoke(wav()) == "One two."
        assert "".join(text.stream(wav())) == "One two."
        assert asyncio.run(text.ainvoke(wav())) == "One two."
        assert "".join(asyncio.run(pieces())) == "One two."
        assert text.batch([wav(), wav()]) == ["One two."] * 2

    def test_text_and_system_go_with_the_clip(self) -> None:
        client = FakeClient()
        chat = ChatSafeAudio.from_client(client)
        SafeAudioRunnable(chat, text="Answer.", system="Be brief.").invoke(wav())
        assert client.requests[0]["text"] == "Answer."
        assert client.requests[0]["system"] == "Be brief."


class TestTheStage:
    def test_utterances_become_turns(self) -> None:
        client = FakeClient("One two.")
        store = AudioStore()
        stage = VoicePipelineStage(
            ChatSafeAudio.from_client(client, audio_store=store), text="Answer."
        )
        events = list(stage.transform(iter([wav(0.3), wav(0.5)])))
        assert kinds(events) == ["agent_chunk", "agent_chunk", "agent_end"] * 2
        assert [len(r["history"]) for r in client.requests] == [0, 2]
        assert [len(t.audio) for t in client.requests[1]["history"]] == [1, 0]

    def test_only_the_last_turns_are_remembered(self) -> None:
        client = FakeClient()
        stage = VoicePipelineStage(ChatSafeAudio.from_client(client), turns=1)
        list(stage.transform(iter([wav()] * 4)))
        assert [len(r["history"]) for r in client.requests] == [0, 2, 2, 2]

    def test_senseless_settings_are_refused(self) -> None:
        chat = ChatSafeAudio.from_client(FakeClient())
        for bad in ({"turns": -1}, {"barge_in_s": float("nan")}, {"barge_in_s": 0}):
            with pytest.raises(InvalidInputError, match=next(iter(bad))):
                VoicePipelineStage(chat, **bad)

    def test_a_refusal_and_a_fault_are_spoken_and_named(self) -> None:
        for client, outcome in ((refusing(), "refused"), (failing(), "error_closed")):
            events = VoicePipelineStage(ChatSafeAudio.from_client(client)).invoke(wav())
            *chunks, guardrail, end = events
            spoken = "".join(chunk.text for chunk in chunks)  # type: ignore[union-attr]
            assert spoken == client.reply.text
            assert (guardrail.outcome, end.type) == (outcome, "agent_end")  # type: ignore[union-attr]

    def test_what_was_not_answered_is_remembered_as_that(self) -> None:
        # Its words alone would not tell: half an answer had been streamed.
        client = failing(streamed="Half an")
        stage = VoicePipelineStage(ChatSafeAudio.from_client(client))
        list(stage.transform(iter([wav()] * 2)))
        (said,) = client.requests[1]["history"][1:]
        assert said.outcome is Outcome.ERROR_CLOSED
        assert said.text.startswith("Half an")

    def test_a_stream_of_samples_is_cut_at_silences(self) -> None:
        client = FakeClient()
        stage = VoicePipelineStage(
            ChatSafeAudio.from_client(client), endpointing=EndpointingOptions()
        )
        quiet = pcm(1.0, level=0.0)
        sound = pcm(1.0) + quiet + pcm(0.05) + quiet + pcm(0.5)
        frames = (sound[i : i + 999] for i in range(0, len(sound), 999))
        events = list(stage.transform(frames))
        assert kinds(events).count("agent_end") == 2
        first, second = (len(r["audio"][0]) / RATE for r in client.requests)
        # The speech, and the silence that ends it.
        assert 1.0 <= first <= 2.0
        assert 0.5 <= second <= 0.8

    def test_the_next_stage_gets_the_events(self) -> None:
        async def speak(events: AsyncIterator[Any]) -> AsyncIterator[str]:
            async for event in events:
                if event.type == "agent_chunk":
                    yield event.text.upper()

        async def calls() -> AsyncIterator[bytes]:
            yield wav()

        async def run() -> list[str]:
            chat = ChatSafeAudio.from_client(FakeClient("One two."))
            agent = VoicePipelineStage(chat) | speak
            return [text async for text in agent.atransform(calls())]

        assert asyncio.run(run()) == ["ONE ", "TWO."]
