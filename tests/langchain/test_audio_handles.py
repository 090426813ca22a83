"""Audio handles: names in messages, and clips in a bounded store in memory."""

from __future__ import annotations

import gc
import pickle

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_sarguard import (
    AudioHandleError,
    AudioStore,
    ChatSafeAudio,
    InvalidInputError,
    audio_message,
)

from tests.langchain.fakes import FakeClient, audio_block, wav


class TestTheStore:
    def test_the_least_recently_used_clip_goes_first(self) -> None:
        store = AudioStore(max_clips=2)
        a, b = store.put(b"a"), store.put(b"b")
        store.get(a)
        c = store.put(b"c")
        assert (store.get(a), store.get(c), len(store)) == (b"a", b"c", 2)
        with pytest.raises(AudioHandleError, match="it was dropped because"):
            store.get(b)

    def test_bytes_are_bounded_too(self) -> None:
        store = AudioStore(max_bytes=5)
        first = store.put(b"123")
        store.put(b"456")
        with pytest.raises(AudioHandleError):
            store.get(first)
        with pytest.raises(ValueError, match="larger max_bytes"):
            store.put(b"123456")
        store.delete(first)
        assert len(store) == 1

    def test_a_borrowed_clip_lives_as_long_as_its_call(self) -> None:
        store = AudioStore()
        chat = ChatSafeAudio.from_client(FakeClient(), audio_store=store)
        chat.invoke([HumanMessage(content=[audio_block()])])
        gc.collect()
        assert len(store) == 0

    def test_it_is_neither_pickled_nor_printed(self) -> None:
        store = AudioStore()
        store.put(b"voice")
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(store)
        assert "voice" not in repr(store)

    def test_handles_do_not_depend_on_the_clip(self) -> None:
        store = AudioStore()
        assert store.put(b"same") != store.put(b"same")


class TestMessages:
    def test_a_message_names_its_clips(self, tmp_path: object) -> None:
        store = AudioStore()
        path = f"{tmp_path}/clip.wav"
        with open(path, "wb") as file:
            file.write(wav())
        handle = store.put(wav())
        message = audio_message([wav(), path, handle], "Compare.", audio_store=store)
        assert len(repr(message)) < 500
        client = FakeClient()
        ChatSafeAudio.from_client(client, audio_store=store).invoke([message])
        assert len(client.requests[0]["audio"]) == 3

    def test_another_type_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="use wav_bytes"):
            audio_message(7)  # type: ignore[arg-type]

    def test_a_lost_clip_is_an_error_or_a_note(self) -> None:
        client, store = FakeClient(), AudioStore()
        lost = audio_message(wav(), "First.", audio_store=store)
        store.delete(lost.content[0]["file_id"])  # type: ignore[index]
        messages = [lost, AIMessage("Yes."), HumanMessage("And?")]
        with pytest.raises(AudioHandleError, match=r"messages\[0\]\.content\[0\]"):
            ChatSafeAudio.from_client(
                client, audio_store=store, lost_audio="raise"
            ).invoke(messages)
        chat = ChatSafeAudio.from_client(client, audio_store=store)
        chat.invoke(messages)
        assert "no longer available" in client.requests[0]["history"][0].text
        with pytest.raises(AudioHandleError):
            chat.invoke([lost])
