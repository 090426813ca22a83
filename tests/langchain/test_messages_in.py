"""From LangChain messages to a request of the client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)
from langchain_sarguard import ChatSafeAudio

from sarguard import Outcome
from sarguard.errors import AudioDecodeError, AudioTooShortError
from tests.langchain.fakes import RATE, FakeClient, audio_block, encoded, wav

CLIP = encoded(wav())
SHAPES: dict[str, dict[str, Any]] = {
    "standard": {"type": "audio", "base64": CLIP, "mime_type": "audio/wav"},
    "openai": {"type": "input_audio", "input_audio": {"data": CLIP, "format": "wav"}},
    "legacy": {
        "type": "audio",
        "source_type": "base64",
        "data": CLIP,
        "mime_type": "audio/wav",
    },
    "google": {"type": "media", "data": CLIP, "mime_type": "audio/wav"},
    "google, bytes": {"type": "media", "data": wav(), "mime_type": "audio/wav"},
}


def send(*messages: BaseMessage) -> dict[str, Any]:
    """Send messages through a chat model and return the request of its client."""
    client = FakeClient()
    ChatSafeAudio.from_client(client).invoke(list(messages))
    (request,) = client.requests
    return request


def human(*blocks: Any) -> HumanMessage:
    return HumanMessage(content=list(blocks))


class TestAudio:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_shape_is_understood(self, shape: str) -> None:
        request = send(human({"type": "text", "text": "Answer."}, SHAPES[shape]))
        assert [len(clip) for clip in request["audio"]] == [RATE // 2]
        assert request["text"] == "Answer."

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_shape_is_understood_as_it_is(self, shape: str) -> None:
        client = FakeClient()
        ChatSafeAudio(client=client)._generate([human(SHAPES[shape])])
        assert len(client.requests[0]["audio"]) == 1

    def test_several_clips_keep_their_order(self) -> None:
        request = send(human(audio_block(wav(0.2)), "Compare.", audio_block(wav(0.4))))
        assert [len(clip) for clip in request["audio"]] == [3200, 6400]

    def test_audio_alone_is_enough(self) -> None:
        assert send(human(audio_block()))["text"] == ""

    @pytest.mark.parametrize(
        "text",
        [
            "\n".join(CLIP[i : i + 76] for i in range(0, len(CLIP), 76)),
            CLIP.rstrip("=") + "\n",
            f"data:audio/wav; codecs=1;base64,{CLIP}",
        ],
        ids=["lines", "no padding", "data uri"],
    )
    @pytest.mark.parametrize(
        "mime_type", ["audio/wav", "video/webm", 'Audio/WAV; codecs="1, 2"', None]
    )
    def test_base64_is_read_as_a_client_reads_it(
        self, text: str, mime_type: str | None
    ) -> None:
        block = {"type": "audio", "base64": text, "mime_type": mime_type}
        assert len(send(human(block))["audio"]) == 1
        openai = {"type": "input_audio", "input_audio": {"data": text}}
        assert len(send(human(openai))["audio"]) == 1

    def test_audio_of_earlier_messages_is_in_the_history(self) -> None:
        request = send(
            human("First.", audio_block(wav(0.2))), AIMessage("Yes."), human("Then?")
        )
        first, second = request["history"]
        assert (first.role, first.text, second.role) == ("user", "First.", "assistant")
        assert [len(clip) for clip in first.audio] == [3200]
        assert request["audio"] == []


class TestTurns:
    def test_a_string_is_a_question(self) -> None:
        client = FakeClient()
        ChatSafeAudio.from_client(client).invoke("Where is the Louvre?")
        assert client.requests[0]["text"] == "Where is the Louvre?"

    def test_neighbours_of_one_role_are_one_turn(self) -> None:
        request = send(
            SystemMessage("Be brief."),
            SystemMessage("Be kind."),
            HumanMessage("Hello."),
            HumanMessage("Are you there?"),
            AIMessage("Yes."),
            AIMessage("I am."),
            human("Good.", audio_block()),
            human(audio_block()),
        )
        assert request["system"] == "Be brief.\n\nBe kind."
        assert [(turn.role, turn.text) for turn in request["history"]] == [
            ("user", "Hello.\n\nAre you there?"),
            ("assistant", "Yes.\n\nI am."),
        ]
        assert request["text"] == "Good."
        assert len(request["audio"]) == 2

    def test_there_is_no_system_unless_given(self) -> None:
        assert send(HumanMessage("Hello."))["system"] is None

    def test_roles_may_be_spelled_out(self) -> None:
        request = send(
            ChatMessage("Be brief.", role="developer"),
            ChatMessage("Hello.", role="user"),
            ChatMessage("Yes?", role="assistant"),
            ChatMessage("Bye.", role="user"),
        )
        assert request["system"] == "Be brief."
        assert [turn.role for turn in request["history"]] == ["user", "assistant"]

    def test_our_own_refusal_may_be_history(self) -> None:
        content = [
            {"type": "text", "text": "I cannot."},
            {"type": "refusal", "refusal": "I cannot."},
        ]
        request = send(human("Do it."), AIMessage(content=content), human("Why?"))
        assert request["history"][1].text == "I cannot."

    @pytest.mark.parametrize("outcome", list(Outcome))
    def test_our_own_messages_keep_their_outcome(self, outcome: Outcome) -> None:
        client = FakeClient("Well.", outcome=outcome)
        ours = ChatSafeAudio.from_client(client).invoke([HumanMessage("Do it.")])
        # As a checkpointer keeps it.
        (kept,) = messages_from_dict(json.loads(json.dumps(messages_to_dict([ours]))))
        (turn,) = send(human("Do it."), kept, human("Yes."))["history"][1:]
        assert turn.outcome is outcome

    @pytest.mark.parametrize(
        "metadata",
        [
            {},
            {"outcome": "blocked"},
            {"model_provider": "openai", "outcome": "blocked"},
            {"model_provider": "sarguard", "outcome": "exploded"},
            {"model_provider": "sarguard", "outcome": ["blocked"]},
        ],
        ids=str,
    )
    def test_others_have_none(self, metadata: dict[str, Any]) -> None:
        other = AIMessage("No.", response_metadata=metadata)
        assert send(human("Do it."), other, human("Yes."))["history"][1].outcome is None
        asked = HumanMessage("Do it.", response_metadata=metadata)
        assert send(asked, AIMessage("No."), human("Yes."))["history"][0].text

    def test_joined_neighbours_hold_no_answer_where_one_does_not(self) -> None:
        def ours(text: str, outcome: str) -> AIMessage:
            metadata = {"model_provider": "sarguard", "outcome": outcome}
            return AIMessage(text, response_metadata=metadata)

        def joined(*outcomes: str) -> Any:
            replies = [ours("Well.", outcome) for outcome in outcomes]
            return send(human("Do it."), *replies, human("Yes."))["history"][1].outcome

        assert joined("answered", "blocked") is Outcome.BLOCKED
        assert joined("error_closed", "answered") is Outcome.ERROR_CLOSED
        assert joined("cancelled", "refused") is Outcome.REFUSED


BAD_BLOCKS: dict[str, tuple[Any, str]] = {
    "image": (
        {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
        "type 'image': this model takes text and audio only",
    ),
    "no base64": (
        {"type": "media", "data": "aGk*", "mime_type": "audio/wav"},
        "is not base64",
    ),
    "url": (
        {"type": "audio", "url": "https://example.org/a.wav", "mime_type": "audio/wav"},
        "URLs are not fetched: pass the sound itself",
    ),
    "legacy url": (
        {"type": "audio", "source_type": "url", "url": "https://example.org/a.wav"},
        "URLs are not fetched",
    ),
    "google uri": (
        {"type": "media", "file_uri": "gs://a/b.wav", "mime_type": "audio/wav"},
        "URIs are not fetched",
    ),
    "file id": ({"type": "audio", "file_id": "file-1"}, "there is no clip named"),
    "no data": (
        {"type": "audio", "mime_type": "audio/wav"},
        "needs its audio data, found none",
    ),
    "odd data": (
        {"type": "audio", "base64": 7, "mime_type": "audio/wav"},
        "needs its audio data, found a int",
    ),
    "openai, no data": (
        {"type": "input_audio", "input_audio": {"format": "wav"}},
        "without data",
    ),
    "openai, empty": ({"type": "input_audio"}, "without data"),
    "odd text": ({"type": "text", "text": 7}, "'text' is a int"),
    "no type": ({"text": "hello"}, "a block of type None"),
}


class TestBadInput:
    @pytest.mark.parametrize("bad", BAD_BLOCKS)
    def test_a_bad_block_is_named_with_a_remedy(self, bad: str) -> None:
        block, explanation = BAD_BLOCKS[bad]
        with pytest.raises(ValueError, match=r"messages\[1\]\.content\[1\]") as caught:
            send(SystemMessage("Be brief."), human("Hear:", block))
        assert explanation in str(caught.value)

    def test_a_clip_that_cannot_be_used_is_named(self) -> None:
        with pytest.raises(AudioTooShortError, match=r"messages\[0\]\.content\[1\]: "):
            send(human(audio_block(), audio_block(wav(0.01))))

    def test_an_earlier_clip_that_cannot_be_used_is_named(self) -> None:
        with pytest.raises(AudioDecodeError, match=r"messages\[0\]\.content\[0\]: "):
            send(human(audio_block(b"no sound")), AIMessage("?"), human(audio_block()))

    @pytest.mark.parametrize(
        ("messages", "explanation"),
        [
            ([], "ends with no message at all"),
            ([SystemMessage("Be brief.")], "ends with a SystemMessage"),
            ([HumanMessage("Hi."), AIMessage("Yes")], "ends with a AIMessage"),
            ([HumanMessage(" ")], r"messages\[0\] is empty"),
            ([HumanMessage("Hi."), SystemMessage("Be brief."), human("Bye.")], "first"),
            ([human("Hi."), ToolMessage("3", tool_call_id="1"), human("So?")], "tools"),
            (
                [
                    human("Hi."),
                    AIMessage(
                        content="",
                        tool_calls=[{"name": "add", "args": {}, "id": "1"}],
                    ),
                    human("So?"),
                ],
                r"messages\[1\] calls tools",
            ),
            ([ChatMessage("Hi.", role="narrator")], "of kind 'narrator'"),
            (
                [AIMessage(content=[audio_block()]), human("What was that?")],
                "only human messages can carry audio",
            ),
        ],
    )
    def test_a_senseless_conversation_is_refused(
        self, messages: list[BaseMessage], explanation: str
    ) -> None:
        client = FakeClient()
        with pytest.raises(ValueError, match=explanation):
            ChatSafeAudio(client=client)._generate(messages)
        assert client.requests == []
