"""Ways in which this integration was broken once by somebody who tried."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypedDict

import numpy as np
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.runnables import (
    ConfigurableField,
    RunnableBinding,
    RunnableGenerator,
    RunnableLambda,
)
from langchain_sarguard import (
    AnswerRefusedError,
    AudioStore,
    ChatSafeAudio,
    EndpointingOptions,
    InvalidInputError,
    SafeAudioRunnable,
    UnguardedModelError,
    VoicePipelineStage,
    audio_message,
)
from langchain_sarguard.audio_handles import _lent, hide
from pydantic import BaseModel

from tests.langchain.fakes import (
    RATE,
    FakeClient,
    RecordingTracer,
    audio_block,
    encoded,
    refusing,
    wav,
)

VOICE = wav(0.3)
SEED = ConfigurableField("s")
UNGUARDED: Any = FakeListChatModel(responses=["Unguarded."])


def chat(**settings: Any) -> ChatSafeAudio:
    return ChatSafeAudio.from_client(
        FakeClient(follows_schema=True), audio_store=AudioStore(), **settings
    )


class Answer(BaseModel):
    """An answer."""

    answer: str


class TestStandIns:
    @pytest.mark.parametrize("make", [SafeAudioRunnable, VoicePipelineStage])
    def test_a_replaced_chat_model(self, make: Any) -> None:
        runnable = make(chat())
        copied = runnable.model_copy(update={"chat": UNGUARDED})
        runnable.chat = UNGUARDED
        for changed in (runnable, copied):
            with pytest.raises(UnguardedModelError):
                changed.invoke(VOICE)

    def test_the_end_of_a_sequence_with_a_function_in_front(self) -> None:
        sequence: Any = RunnableLambda(lambda x: x).__or__(chat())
        ours: Any = (lambda x: x) | chat()
        ours.last = UNGUARDED
        with pytest.raises(UnguardedModelError):
            ours.invoke("Hello.")
        assert sequence.invoke("Hello.").content == "Paris."

    def test_several_guarded_steps_behind_a_function(self) -> None:
        sequence = (lambda x: x) | (
            chat() | RunnableLambda(lambda m: m.content) | chat().with_retry()
        )
        assert sequence.invoke("Hello.").content == "Paris."

    @pytest.mark.parametrize(
        ("make", "part"),
        [
            (lambda: chat().bind(seed=1), "bound"),
            (
                lambda: chat().configurable_fields(seed=ConfigurableField("s")),
                "default",
            ),
        ],
    )
    def test_methods_that_langchain_passes_on(self, make: Any, part: str) -> None:
        runnable = make()
        setattr(runnable, part, UNGUARDED)
        with pytest.raises(UnguardedModelError):
            runnable.generate([[HumanMessage("Hello.")]])

    def test_a_subclass_that_answers_by_itself(self) -> None:
        class Log(RunnableBinding):  # type: ignore[type-arg]
            def invoke(self, *_: Any, **__: Any) -> Any:
                return "Unguarded."

        with pytest.raises(UnguardedModelError):
            chat().with_fallbacks([Log(bound=chat(), kwargs={}, config={})])


class TestWhatIsBound:
    @pytest.mark.parametrize(
        "make",
        [
            lambda c: c.with_structured_output(Answer),
            lambda c: c.bind_tools([], response_format=Answer),
            lambda c: c.with_fallbacks([chat()]).with_structured_output(Answer),
        ],
    )
    def test_it_stays_with_structured_output(self, make: Any) -> None:
        bound = chat().bind(tier="maximum", tenant="bank", session="call-1")
        make(bound).invoke("Hello.")
        client: Any = bound.bound.client  # type: ignore[attr-defined]
        (request,) = client.requests
        told = (request["tier"], request["tenant"], request["session"])
        assert told == ("maximum", "bank", "call-1")
        assert request["json_schema"]

    def test_so_does_a_configured_thread(self) -> None:
        ours = chat()
        configured = ours.with_config(configurable={"thread_id": "t-1"})
        configured.with_structured_output(Answer).invoke("Hello.")
        assert ours.client.requests[0]["session"] == "t-1"  # type: ignore[attr-defined]


class TestClipsAreLetGo:
    def test_after_events_and_streams(self) -> None:
        async def events() -> None:
            async for _ in chat().astream_events(
                [HumanMessage([audio_block(VOICE)])], version="v2"
            ):
                pass

        before = len(_lent)
        kept = hide([HumanMessage([audio_block(VOICE)])])
        assert len(_lent) == before + 1
        del kept
        list(chat().transform(iter([[HumanMessage([audio_block(VOICE)])]])))
        asyncio.run(events())
        gc.collect()
        assert len(_lent) == before

    def test_of_a_conversation_that_was_named(self) -> None:
        ours = chat()
        message = audio_message(
            VOICE, audio_store=ours.audio_store, conversation="call-1"
        )
        ours.invoke([message], {"configurable": {"thread_id": "call-1"}})
        assert ours.end_session("call-1").clips == 1
        assert len(ours.audio_store) == 0

    def test_where_a_call_is_left_while_its_file_is_read(self, tmp_path: Any) -> None:
        path = tmp_path / "slow.wav"
        path.write_bytes(VOICE)
        stage = VoicePipelineStage(chat())

        async def run() -> int:
            with pytest.MonkeyPatch.context() as patch:
                read = type(path).read_bytes

                def slowly(self: Any) -> bytes:
                    time.sleep(0.3)
                    return read(self)

                patch.setattr(type(path), "read_bytes", slowly)
                task = asyncio.create_task(stage.ainvoke(str(path)))
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.sleep(0.5)
            return len(stage.chat.audio_store)

        assert asyncio.run(run()) == 0


class TestLeaving:
    def test_a_sequence_that_speaks_with_an_endless_microphone(self) -> None:
        def speak(events: Iterator[Any]) -> Iterator[str]:
            for event in events:
                yield event.type

        def endless() -> Iterator[bytes]:
            while True:
                time.sleep(0.01)
                yield VOICE

        stage = VoicePipelineStage(chat())
        stream = (stage | RunnableGenerator(speak)).transform(endless())
        assert next(stream) == "agent_chunk"
        closed = threading.Thread(target=stream.close, daemon=True)
        closed.start()
        closed.join(10)
        assert not closed.is_alive()
        assert len(stage.chat.audio_store) == 0

    def test_an_asynchronous_stream_is_closed_when_it_says_so(self) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0.01)
                yield VOICE

        async def run() -> tuple[int, int]:
            ours = chat()
            stream: Any = VoicePipelineStage(ours).atransform(endless())
            await anext(stream)
            await stream.aclose()
            client: Any = ours.client
            return len(ours.audio_store), client.closed

        assert asyncio.run(run()) == (0, 1)

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
    def test_a_stream_that_wants_to_end_the_program(self, error: Any) -> None:
        def microphone() -> Iterator[bytes]:
            yield VOICE
            raise error

        with pytest.raises(RuntimeError, match=error.__name__):
            list(VoicePipelineStage(chat()).transform(microphone()))

    def test_a_blocked_microphone_does_not_keep_the_program(self) -> None:
        program = """
import queue
from langchain_sarguard import AudioStore, ChatSafeAudio, VoicePipelineStage
from tests.langchain.fakes import FakeClient, wav
clips = queue.Queue()
clips.put(wav(0.3))
stage = VoicePipelineStage(ChatSafeAudio.from_client(FakeClient()))
for event in stage.transform(iter(clips.get, None)):
    break
print("left")
"""
        done = subprocess.run(
            [sys.executable, "-c", program], timeout=60, capture_output=True, check=True
        )
        assert done.stdout.strip() == b"left"


class TestRefusals:
    def test_one_does_not_end_a_call_of_a_model_that_raises(self) -> None:
        raising = ChatSafeAudio.from_client(refusing(), raise_on_refusal=True)
        events = VoicePipelineStage(raising).transform(iter([VOICE, VOICE]))
        kinds = [e.type for e in events if e.type != "agent_chunk"]
        assert kinds == ["guardrail", "agent_end"] * 2

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
    def test_the_error_can_be_copied(self, copied: Callable[[Any], Any]) -> None:
        with pytest.raises(AnswerRefusedError) as raised:
            ChatSafeAudio.from_client(refusing(), raise_on_refusal=True).invoke("Hi")
        found = copied(raised.value)
        found = pickle.loads(found) if isinstance(found, bytes) else found
        assert str(found) == str(raised.value)
        assert found.raw_message == raised.value.raw_message


class TestTools:
    @pytest.mark.parametrize(
        "given",
        [
            lambda path: path,
            lambda path: {"__arg1": path},
            lambda path: {
                "name": "ask",
                "args": {"__arg1": path},
                "id": "1",
                "type": "tool_call",
            },
        ],
        ids=["text", "arguments", "call"],
    )
    def test_a_model_chooses_no_file(self, given: Any, tmp_path: Any) -> None:
        path = tmp_path / "clip.wav"
        path.write_bytes(VOICE)
        ours = chat()
        tool = SafeAudioRunnable(ours).as_tool(name="ask", description="Ask.")
        with pytest.raises(InvalidInputError, match="and no path"):
            tool.invoke(given(str(path)))
        handle = ours.audio_store.put(VOICE)
        assert "Paris." in str(tool.invoke(given(handle)))


LONG = encoded(VOICE)
URI = f"data:audio/wav;base64,{LONG}"


class TestTraces:
    @pytest.mark.parametrize(
        "block",
        [
            {"type": "audio", "file_id": "x", "base64": LONG},
            {"type": "audio", "source_type": "id", "id": "x", "data": LONG},
            {"type": "file", "mime_type": "audio/wav", "base64": LONG},
            {"type": "file", "file": {"file_data": f"data:audio/wav;base64,{LONG}"}},
            {
                "type": "audio_url",
                "audio_url": {"url": f"data:audio/wav;base64,{LONG}"},
            },
            {"type": "non_standard", "value": {"data": LONG}},
        ],
        ids=lambda block: block["type"],
    )
    def test_blocks_that_are_refused(self, block: dict[str, Any]) -> None:
        tracer = RecordingTracer()
        with pytest.raises(InvalidInputError):
            chat().invoke([HumanMessage([block])], {"callbacks": [tracer]})
        assert LONG[200:400] not in tracer.text()

    def test_other_fields_of_a_message(self) -> None:
        tracer = RecordingTracer()
        message = HumanMessage(
            "Hello.", additional_kwargs={"pcm": VOICE, "input_audio": {"data": LONG}}
        )
        chat().invoke([message], {"callbacks": [tracer]})
        assert LONG[200:400] not in tracer.text()
        assert repr(VOICE[200:260])[2:-1] not in tracer.text()

    def test_a_text_in_place_of_a_clip_is_not_quoted(self) -> None:
        with pytest.raises(InvalidInputError, match="decode base64 before") as raised:
            SafeAudioRunnable(chat()).invoke(f"data:audio/wav;base64,{LONG}")
        assert LONG[200:300] not in str(raised.value)


class Movie(TypedDict):
    """A movie."""

    title: str


class TestPlausibleInput:
    def test_a_dictionary_of_typing(self) -> None:
        found = chat().with_structured_output(Movie).invoke("Hello.")
        assert found == {"title": "Why?"}

    def test_a_class_without_a_schema_is_named(self) -> None:
        class Calls(BaseModel):
            """A class that pydantic can write no schema of."""

            call: Callable[[], int]

        with pytest.raises(InvalidInputError, match="Calls makes no JSON schema"):
            chat().with_structured_output(Calls)

    def test_text_is_a_response_format(self) -> None:
        bound = chat().bind_tools([], response_format={"type": "text"})
        assert bound.invoke("Hello.").content == "Paris."

    @pytest.mark.parametrize(
        "messages",
        [
            "one two",
            [("human", "one two")],
            [{"role": "user", "content": "one two"}],
            HumanMessage("one two"),
            [AIMessageChunk("one two")],
        ],
        ids=repr,
    )
    def test_everything_that_is_asked_can_be_counted(self, messages: Any) -> None:
        assert chat().get_num_tokens_from_messages(messages) == 2 + 3

    def test_samples_that_make_no_sense_name_themselves(self) -> None:
        stage = VoicePipelineStage(chat(), endpointing=EndpointingOptions())
        with pytest.raises(ValueError, match="give one channel"):
            stage.invoke(np.zeros((2, RATE)))
