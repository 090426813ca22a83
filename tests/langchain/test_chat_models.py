"""The chat model: settings, calls, threads, and a tiny real model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tracers.context import collect_runs
from langchain_sarguard import ChatSafeAudio
from pydantic import ValidationError

from sarguard import SafeAudioLLM, SteeringBundle
from tests import tiny
from tests.langchain.fakes import DIGEST, FakeClient, audio_block, failing

DEFAULTS = {"max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, "seed": None}


def options(client: FakeClient) -> dict[str, Any]:
    return {name: client.requests[-1][name] for name in DEFAULTS}


class TestSettings:
    def test_the_client_s_defaults_are_kept(self) -> None:
        client = FakeClient()
        ChatSafeAudio.from_client(client).invoke("Hello.")
        assert options(client) == DEFAULTS

    def test_settings_reach_the_client_and_a_call_overrides_them(self) -> None:
        client = FakeClient()
        chat = ChatSafeAudio.from_client(
            client, max_tokens=9, temperature=0.5, top_p=0.9, seed=7
        )
        chat.invoke("Hello.", max_tokens=3, temperature=0.0)
        assert options(client) == {
            "max_new_tokens": 3,
            "temperature": 0.0,
            "top_p": 0.9,
            "seed": 7,
        }

    @pytest.mark.parametrize(
        "setting", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}]
    )
    def test_a_setting_out_of_range_is_refused(self, setting: dict[str, int]) -> None:
        with pytest.raises(ValidationError, match=next(iter(setting))):
            ChatSafeAudio.from_client(FakeClient(), **setting)

    def test_a_misspelt_setting_is_refused(self) -> None:
        with pytest.raises(TypeError, match="no setting max_token:"):
            ChatSafeAudio.from_client(FakeClient(), max_token=3)

    def test_an_unguarded_client_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="instance of SafeAudioLLM"):
            ChatSafeAudio(client=object())

    @pytest.mark.parametrize("kwargs", [{"alpha": 0.0}, {"tools": []}, {"model": "x"}])
    def test_a_call_cannot_change_what_is_guarded(self, kwargs: dict[str, Any]) -> None:
        client = FakeClient()
        chat = ChatSafeAudio.from_client(client).bind(**kwargs)
        with pytest.raises(ValueError, match=f"cannot take {next(iter(kwargs))} with"):
            chat.invoke("Hello.")
        assert client.requests == []

    def test_from_pretrained_splits_the_settings(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: dict[str, Any] = {}

        def load(name: str, **kwargs: Any) -> SafeAudioLLM:
            given.update(kwargs, name=name)
            return FakeClient()

        monkeypatch.setattr(SafeAudioLLM, "from_pretrained", load)
        chat = ChatSafeAudio.from_pretrained(
            "reference", alpha=0.2, max_tokens=5, stop_sequences=["."]
        )
        assert given == {"name": "reference", "alpha": 0.2}
        assert (chat.max_tokens, chat.stop) == (5, ["."])


class TestTracing:
    def test_the_run_names_the_provider_and_the_model(self) -> None:
        chat = ChatSafeAudio.from_client(FakeClient(), max_tokens=5, stop=["."])
        params = chat._get_ls_params()
        assert params["ls_provider"] == "sarguard"
        assert params["ls_model_name"] == "fake"
        assert params["ls_max_tokens"] == 5
        assert params["ls_stop"] == ["."]

    def test_the_run_names_the_guard(self) -> None:
        with collect_runs() as runs:
            ChatSafeAudio.from_client(FakeClient()).invoke("Hello.")
        extra = runs.traced_runs[0].extra or {}
        assert extra["invocation_params"]["bundle_digest"] == DIGEST
        assert extra["invocation_params"]["alpha"] == 0.1

    def test_the_representation_leaves_the_client_out(self) -> None:
        assert "client" not in repr(ChatSafeAudio.from_client(FakeClient()))


class TestCache:
    @pytest.fixture(autouse=True)
    def _global_cache(self) -> Iterator[None]:
        set_llm_cache(InMemoryCache())
        yield
        set_llm_cache(None)

    def test_a_global_cache_does_not_replay_a_failure(self) -> None:
        client = failing()
        chat = ChatSafeAudio.from_client(client)
        chat.invoke("Hello.")
        client.reply = FakeClient().reply
        assert chat.invoke("Hello.").content == "Paris."
        assert len(client.requests) == 2


class TestCalls:
    def test_the_end_of_a_stream_has_the_metadata(self) -> None:
        chunks = list(ChatSafeAudio.from_client(failing()).stream("Hello."))
        whole = [chunk for chunk in chunks if chunk.content]
        assert [chunk.content for chunk in whole] == ["Please try again later."]
        assert chunks[-1].response_metadata["outcome"] == "error_closed"

    def test_a_stream_comes_in_pieces_that_make_the_message(self) -> None:
        chat = ChatSafeAudio.from_client(FakeClient("One, two, three."))
        first, *rest = chat.stream("Count.")
        assert [c.content for c in (first, *rest)] == ["One, ", "two, ", "three.", ""]
        for chunk in rest:
            first += chunk
        whole = chat.invoke("Count.")
        assert first.content == whole.content
        assert first.response_metadata == whole.response_metadata
        assert first.usage_metadata == whole.usage_metadata

    def test_text_streamed_before_a_fault_is_kept(self) -> None:
        chat = ChatSafeAudio.from_client(failing(streamed="The capital "))
        message = chat.invoke("Hello.")
        assert message.content == "The capital \nPlease try again later."
        assert message.additional_kwargs == {"refusal": "Please try again later."}

    def test_closing_a_stream_closes_the_client_s(self) -> None:
        client = FakeClient("One, two, three.")
        stream = ChatSafeAudio.from_client(client).stream("Count.")
        next(stream)
        stream.close()
        assert (client.closed, len(client.sent)) == (1, 1)

    def test_a_batch_answers_everything_in_order(self) -> None:
        client = FakeClient()
        questions = [f"Question {i}." for i in range(5)]
        replies = ChatSafeAudio.from_client(client).batch(list(questions))
        assert [reply.content for reply in replies] == ["Paris."] * 5
        assert sorted(request["text"] for request in client.requests) == questions

    def test_ainvoke_leaves_the_event_loop_free(self) -> None:
        chat = ChatSafeAudio.from_client(FakeClient(seconds=0.5))

        async def run() -> tuple[AIMessage, int]:
            task = asyncio.ensure_future(chat.ainvoke("Hello."))
            ticks = 0
            while not task.done():
                await asyncio.sleep(0.01)
                ticks += 1
            return await task, ticks

        message, ticks = asyncio.run(run())
        assert message.content == "Paris."
        assert ticks > 5


class TestATinyRealModel:
    def test_it_answers_what_the_client_answers(
        self, tiny_client: SafeAudioLLM
    ) -> None:
        block = audio_block()
        chat = ChatSafeAudio.from_client(tiny_client, max_tokens=6)
        message = chat.invoke(
            [
                SystemMessage("Be brief."),
                HumanMessage("Hello."),
                AIMessage("Yes?"),
                HumanMessage(content=["Answer.", block]),
            ]
        )
        expected = tiny_client.generate(
            base64.b64decode(block["base64"]),
            "Answer.",
            system="Be brief.",
            history=[
                tiny_client.turn("user", text="Hello."),
                tiny_client.turn("assistant", text="Yes?"),
            ],
            max_new_tokens=6,
        )
        assert message.content == expected.text
        assert message.response_metadata["bundle_digest"] == tiny_client.bundle.digest
        assert message.response_metadata["outcome"] == expected.outcome.value
        usage = message.usage_metadata
        assert usage is not None
        assert usage["input_tokens"] == expected.usage.prompt_tokens
        assert usage["input_token_details"]["audio"] == expected.usage.audio_tokens > 0
        assert usage["output_tokens"] == expected.usage.output_tokens > 0

    def test_removed_hooks_give_no_answer(self, tiny_bundle: SteeringBundle) -> None:
        loaded = tiny.build()
        client = SafeAudioLLM.from_model(
            loaded.model, loaded.processor, bundle=tiny_bundle, alpha=0.1
        )
        for layer in loaded.decoder.layers:
            layer._forward_hooks.clear()
        message = ChatSafeAudio.from_client(client, max_tokens=4).invoke("Hello.")
        assert message.response_metadata["outcome"] == "error_closed"
        assert message.content_blocks[-1]["type"] == "refusal"
        client.close()

    def test_calls_together_answer_as_alone(self, tiny_client: SafeAudioLLM) -> None:
        chat = ChatSafeAudio.from_client(tiny_client, max_tokens=4)
        questions = ["One?", "Two, please?", "And what is three?"]
        alone = [chat.invoke(question).content for question in questions]
        together = chat.batch(questions)
        assert [message.content for message in together] == alone
