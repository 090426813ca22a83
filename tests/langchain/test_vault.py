"""Hold the vault: names in messages, sound in memory, and not too much of it."""

from __future__ import annotations

import gc
import pickle

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_sarguard import (
    AudioHandleError,
    AudioVault,
    ChatSafeAudio,
    InvalidInputError,
    audio_message,
)

from tests.langchain.fakes import FakeClient, audio_block, wav


class TestBounds:
    def test_the_clip_unused_for_longest_goes_first(self) -> None:
        vault = AudioVault(max_clips=2)
        a, b = vault.put(b"a"), vault.put(b"b")
        vault.get(a)
        c = vault.put(b"c")
        assert (vault.get(a), vault.get(c), len(vault)) == (b"a", b"c", 2)
        with pytest.raises(AudioHandleError, match="it was dropped because"):
            vault.get(b)

    def test_bytes_are_bounded_too(self) -> None:
        vault = AudioVault(max_bytes=5)
        first = vault.put(b"123")
        vault.put(b"456")
        with pytest.raises(AudioHandleError):
            vault.get(first)
        with pytest.raises(ValueError, match="larger max_bytes"):
            vault.put(b"123456")
        vault.forget(first)
        assert len(vault) == 1

    def test_a_lent_clip_lives_as_long_as_its_call(self) -> None:
        vault = AudioVault()
        chat = ChatSafeAudio.from_client(FakeClient(), vault=vault)
        chat.invoke([HumanMessage(content=[audio_block()])])
        gc.collect()
        assert len(vault) == 0

    def test_it_is_neither_pickled_nor_printed(self) -> None:
        vault = AudioVault()
        vault.put(b"voice")
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(vault)
        assert "voice" not in repr(vault)

    def test_names_say_nothing_of_the_sound(self) -> None:
        vault = AudioVault()
        assert vault.put(b"same") != vault.put(b"same")


class TestMessages:
    def test_a_message_names_its_clips(self, tmp_path: object) -> None:
        vault = AudioVault()
        path = f"{tmp_path}/clip.wav"
        with open(path, "wb") as file:
            file.write(wav())
        handle = vault.put(wav())
        message = audio_message([wav(), path, handle], "Compare.", vault=vault)
        assert len(repr(message)) < 500
        client = FakeClient()
        ChatSafeAudio.from_client(client, vault=vault).invoke([message])
        assert len(client.requests[0]["audio"]) == 3

    def test_something_else_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="use wav_bytes"):
            audio_message(7)  # type: ignore[arg-type]

    def test_a_lost_clip_is_an_error_or_a_note(self) -> None:
        client, vault = FakeClient(), AudioVault()
        lost = audio_message(wav(), "First.", vault=vault)
        vault.forget(lost.content[0]["file_id"])  # type: ignore[index]
        asked = [lost, AIMessage("Yes."), HumanMessage("And?")]
        with pytest.raises(AudioHandleError, match=r"messages\[0\]\.content\[0\]"):
            ChatSafeAudio.from_client(client, vault=vault).invoke(asked)
        chat = ChatSafeAudio.from_client(client, vault=vault, lost_audio="note")
        chat.invoke(asked)
        assert "no longer available" in client.requests[0]["history"][0].text
        with pytest.raises(AudioHandleError):
            chat.invoke([lost])
