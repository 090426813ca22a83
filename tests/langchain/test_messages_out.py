"""From replies to messages: text that can be spoken, and metadata."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from langchain_core import exceptions
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_sarguard import (
    AnswerFailedError,
    AnswerRefusedError,
    ChatSafeAudio,
)

from tests.langchain.fakes import DIGEST, FakeClient, failing, refusing


def answer(client: FakeClient, **settings: Any) -> AIMessage:
    return ChatSafeAudio.from_client(client, **settings).invoke("Hello.")


class TestAnAnswer:
    def test_it_is_a_string_with_metadata(self) -> None:
        message = answer(FakeClient())
        policy = FakeClient().policy
        assert message.content == "Paris."
        assert message.response_metadata == {
            "model_provider": "sarguard",
            "model_name": "fake",
            "outcome": "answered",
            "finish_reason": "stop",
            "alpha": 0.1,
            "bundle_digest": DIGEST,
            "policy": f"{policy.id} {policy.version} {policy.digest}",
        }
        assert message.additional_kwargs == {}
        assert message.content_blocks == [{"type": "text", "text": "Paris."}]

    def test_turns_that_left_the_prompt_are_named(self) -> None:
        client = FakeClient()
        guard = replace(client.reply.guard, left_out=2, trimmed=6)
        client.reply = replace(client.reply, guard=guard)
        metadata = answer(client).response_metadata
        assert (metadata["left_out"], metadata["trimmed"]) == (2, 6)

    def test_usage_counts_the_audio(self) -> None:
        assert answer(FakeClient()).usage_metadata == {
            "input_tokens": 40,
            "output_tokens": 3,
            "total_tokens": 43,
            "input_token_details": {"audio": 25},
        }

    def test_a_cut_by_length_is_reported(self) -> None:
        message = answer(FakeClient(finish_reason="length"))
        assert message.response_metadata["finish_reason"] == "length"

    def test_it_can_be_asked_for_as_standard_blocks(self) -> None:
        message = answer(FakeClient(), output_version="v1")
        assert message.content == [{"type": "text", "text": "Paris."}]

    def test_it_fits_into_a_chain(self) -> None:
        chain = ChatSafeAudio.from_client(FakeClient()) | StrOutputParser()
        assert chain.invoke("Hello.") == "Paris."


class TestARefusal:
    def test_it_can_be_spoken_and_recognised(self) -> None:
        message = answer(refusing())
        assert message.content == message.text == "I cannot assist with that."
        assert message.additional_kwargs == {"refusal": "I cannot assist with that."}
        metadata = message.response_metadata
        assert metadata["outcome"] == "refused"
        assert metadata["finish_reason"] == "content_filter"
        assert metadata["refusal"] == {"category": "refused", "detected_by": "wording"}

    @pytest.mark.parametrize("settings", [{}, {"output_version": "v1"}])
    def test_it_holds_the_standard_block(self, settings: dict[str, str]) -> None:
        message = answer(refusing(), **settings)
        assert message.content_blocks == [
            {"type": "text", "text": "I cannot assist with that."},
            {
                "type": "refusal",
                "refusal": "I cannot assist with that.",
                "extras": {"category": "refused", "detected_by": "wording"},
            },
        ]
        assert message.text == "I cannot assist with that."

    def test_it_can_raise(self) -> None:
        with pytest.raises(AnswerRefusedError, match="I cannot assist") as caught:
            answer(refusing(), raise_on_refusal=True)
        assert caught.value.raw_message.content == "I cannot assist with that."

    def test_the_error_is_langchain_s_own_where_it_has_one(self) -> None:
        newest = getattr(exceptions, "ModelRefusalError", exceptions.LangChainException)
        assert issubclass(AnswerRefusedError, newest)
        assert issubclass(AnswerRefusedError, exceptions.LangChainException)


class TestAFault:
    def test_it_never_looks_like_an_answer(self) -> None:
        message = answer(failing())
        metadata = message.response_metadata
        assert message.content == "Please try again later."
        assert metadata["outcome"] == "error_closed"
        assert metadata["finish_reason"] == "error"
        assert metadata["refusal"] == {
            "category": "error_closed",
            "detected_by": "guard",
            "fault": "SteeringNotAppliedError: 0 of 3 positions",
        }
        assert message.content_blocks[-1]["type"] == "refusal"

    def test_its_error_is_not_a_refusal(self) -> None:
        with pytest.raises(AnswerFailedError, match="SteeringNotApplied") as caught:
            answer(failing(), raise_on_refusal=True)
        assert not isinstance(caught.value, AnswerRefusedError)
        assert caught.value.raw_message.response_metadata["outcome"] == "error_closed"

    def test_an_answer_does_not_raise(self) -> None:
        assert answer(FakeClient(), raise_on_refusal=True).content == "Paris."
