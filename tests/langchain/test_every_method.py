"""Every method of LangChain's runnables, found by reflection, on every one of ours.

Four things hold of whatever a method returns, and of every way into that:
no unguarded model can stand in, at construction or by a change afterwards; no tracer
and no event holds the caller's voice; the session and the tenant stay; and one call is
one trace. A method that a new version of langchain-core brings fails the first test
here until somebody has looked at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import typing
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableLambda,
    RunnableSerializable,
)
from langchain_sarguard import (
    ChatSafeAudio,
    SafeAudioRunnable,
    UnguardedModelError,
    VoicePipelineStage,
)
from pydantic import BaseModel

from tests.langchain.fakes import (
    FakeClient,
    RecordingTracer,
    audio_block,
    encoded,
    wav,
)

VOICE = wav(0.4)
UNGUARDED: Any = FakeListChatModel(responses=["Unguarded."])
Derive = Callable[[Any], Any]


def chat() -> ChatSafeAudio:
    return ChatSafeAudio.from_client(FakeClient(follows_schema=True))


ROOTS: dict[str, Callable[[], Any]] = {
    "chat": chat,
    "runnable": lambda: SafeAudioRunnable(chat(), text="Hear."),
    "stage": lambda: VoicePipelineStage(chat(), text="Hear."),
}


def _alternatives(runnable: Any) -> Any:
    return runnable.configurable_alternatives(
        ConfigurableField("m"), other=lambda: chat()
    )


def _field(runnable: Any) -> Any:
    name = "seed" if isinstance(runnable, ChatSafeAudio) else "text"
    fields = getattr(type(runnable), "model_fields", {})
    own = name in fields and not hasattr(runnable, "bound")
    settings = {name: ConfigurableField("f")} if own else {}
    return runnable.configurable_fields(**settings)


def echo(value: Any) -> Any:
    return value


DERIVING: dict[str, Derive] = {
    "__or__": lambda r: r | RunnableLambda(echo),
    "assign": lambda r: r.assign(more=lambda x: 1),
    # A tool takes text, as a model writes it.
    "as_tool": lambda r: r.with_types(input_type=str).as_tool(
        name="ask", description="Ask."
    ),
    "bind": lambda r: r.bind(),
    "configurable_alternatives": _alternatives,
    "configurable_fields": _field,
    "map": lambda r: r.map(),
    "pick": lambda r: r.pick("content"),
    "pipe": lambda r: r.pipe(RunnableLambda(echo)),
    "with_alisteners": lambda r: r.with_alisteners(),
    "with_config": lambda r: r.with_config(tags=["a"]),
    "with_fallbacks": lambda r: r.with_fallbacks([chat().bind()]),
    "with_listeners": lambda r: r.with_listeners(on_start=lambda run: None),
    "with_retry": lambda r: r.with_retry(stop_after_attempt=1),
    "with_types": lambda r: r.with_types(input_type=str),
}
"""Methods that make a runnable of a runnable."""
# What these hand on is no answer any more, or not taken as it is.
ENDS = ("assign", "as_tool", "pick")
ANSWERING = [name for name in DERIVING if name not in ENDS]

IN_FRONT = {"__ror__": lambda r: RunnableLambda(echo).__or__(r)}
"""What comes in front takes the input as it is: its own part is traced."""

INTROSPECTION = {
    *("InputType", "OutputType", "config_schema", "config_specs", "get_graph"),
    *("get_config_jsonschema", "get_input_jsonschema", "get_input_schema"),
    *("get_name", "get_output_jsonschema", "get_output_schema", "get_prompts"),
    *("input_schema", "output_schema"),
    # Of pydantic and of serialisation, which `test_bypass.py` is about.
    *("model_config", "model_post_init", "to_json"),
}

OF_CHAT_MODELS = {
    *("agenerate", "agenerate_prompt", "asdict", "bind_tools", "dict", "generate"),
    *("generate_prompt", "get_num_tokens", "get_num_tokens_from_messages"),
    *("get_token_ids", "lc_attributes", "with_structured_output", "set_verbose"),
}


def config(tracer: RecordingTracer | None = None) -> Any:
    return {"callbacks": [] if tracer is None else [tracer]}


async def _all(items: Any) -> list[Any]:
    return [item async for item in items]


async def _one(value: Any) -> Any:
    yield value


def _v3(runnable: Any, value: Any, conf: Any) -> Any:
    # Only chat models have it; what others say of it is not ours.
    if not isinstance(runnable, ChatSafeAudio):
        return list(runnable.stream(value, conf))
    return runnable.stream_events(value, conf, version="v3").output


ENTRIES: dict[str, list[Callable[[Any, Any, Any], Any]]] = {
    "invoke": [lambda r, x, c: r.invoke(x, c)],
    "ainvoke": [lambda r, x, c: asyncio.run(r.ainvoke(x, c))],
    "stream": [lambda r, x, c: list(r.stream(x, c))],
    "astream": [lambda r, x, c: asyncio.run(_all(r.astream(x, c)))],
    "transform": [lambda r, x, c: list(r.transform(iter([x]), c))],
    "atransform": [lambda r, x, c: asyncio.run(_all(r.atransform(_one(x), c)))],
    "batch": [lambda r, x, c: r.batch([x], c)],
    "abatch": [lambda r, x, c: asyncio.run(r.abatch([x], c))],
    "batch_as_completed": [lambda r, x, c: list(r.batch_as_completed([x], c))],
    "abatch_as_completed": [
        lambda r, x, c: asyncio.run(_all(r.abatch_as_completed([x], c)))
    ],
    "astream_log": [
        lambda r, x, c: asyncio.run(_all(r.astream_log(x, c))),
    ],
    "astream_events": [
        lambda r, x, c: asyncio.run(_all(r.astream_events(x, c, version="v2"))),
        lambda r, x, c: asyncio.run(_all(r.astream_events(x, c, version="v1"))),
    ],
    "stream_events": [_v3],
}


def public(*classes: type) -> set[str]:
    names = {name for cls in classes for name in vars(cls) if not name.startswith("_")}
    return names | {"__or__", "__ror__"}


WAYS_IN = [
    pytest.param(call, id=f"{name}-{number}" if number else name)
    for name, calls in ENTRIES.items()
    for number, call in enumerate(calls)
]


def question(root: str, path: list[str]) -> Any:
    block = [audio_block(VOICE), {"type": "text", "text": "Hear."}]
    asked: Any = [HumanMessage(content=block)] if root == "chat" else VOICE
    # Each `map` takes a list of what it maps.
    for name in reversed(path):
        asked = [asked] if name == "map" else asked
    return asked


def has_audio(text: str) -> bool:
    raw = repr(VOICE[200:260])[2:-1]
    return encoded(VOICE)[200:400] in text or raw in text


def client_of(runnable: Any) -> FakeClient:
    """Return the client at the heart of what was derived."""
    while not hasattr(runnable, "client"):
        runnable = next(
            getattr(runnable, name)
            for name in ("chat", "bound", "default", "runnable", "first")
            if getattr(type(runnable), "model_fields", {}).get(name)
        )
    client: FakeClient = runnable.client
    return client


class TestTheList:
    def test_every_public_method_of_a_runnable_is_looked_at(self) -> None:
        looked_at = {*DERIVING, *ENTRIES, *INTROSPECTION, "__ror__"}
        assert public(Runnable, RunnableSerializable) <= looked_at | {"name"}

    def test_every_public_method_of_a_chat_model_is_looked_at(self) -> None:
        looked_at = {*DERIVING, *ENTRIES, *INTROSPECTION, *OF_CHAT_MODELS, "__ror__"}
        found = {
            name
            for name in public(BaseChatModel, BaseLanguageModel)
            if callable(getattr(ChatSafeAudio, name, None))
        }
        assert found <= looked_at

    def test_the_page_names_the_same_methods(self) -> None:
        page = Path("docs/langchain.md").read_text("utf-8")
        section = page.split("## Bypass protection")[1].split("\n## ")[0]
        told = section.split("These return something guarded:")[1]
        derived, entered = told.split("It also holds")[0].split("These check it")
        assert set(re.findall(r"`([^`]+)`", derived)) == {
            name.replace("__or__", "|") for name in DERIVING
        }
        assert set(re.findall(r"`([^`]+)`", entered)) == set(ENTRIES)

    def test_nothing_is_listed_that_is_not_there(self) -> None:
        names = {*DERIVING, *ENTRIES, "__ror__"}
        assert names <= public(Runnable, RunnableSerializable)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("first", DERIVING)
class TestAtConstruction:
    def test_no_unguarded_fallback(self, root: str, first: str) -> None:
        derived = DERIVING[first](ROOTS[root]())
        with pytest.raises(UnguardedModelError):
            derived.with_fallbacks([UNGUARDED])
        with pytest.raises(UnguardedModelError):
            derived.configurable_alternatives(ConfigurableField("x"), x=UNGUARDED)
        with pytest.raises(UnguardedModelError):
            derived.configurable_alternatives(
                ConfigurableField("x"), x=lambda: UNGUARDED
            )

    @pytest.mark.parametrize("second", DERIVING)
    def test_nor_after_two_methods(self, root: str, first: str, second: str) -> None:
        if first == "as_tool" and second == "as_tool":
            pytest.skip("a tool of a tool would have two arguments of one name")
        derived = DERIVING[second](DERIVING[first](ROOTS[root]()))
        with pytest.raises(UnguardedModelError):
            derived.with_fallbacks([UNGUARDED])


@pytest.mark.filterwarnings(
    "ignore::langchain_core._api.LangChainBetaWarning",
    "ignore::langchain_core._api.LangChainDeprecationWarning",
)
@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("call", WAYS_IN)
class TestAudio:
    """What goes in is audio; no tracer, log or event gets any."""

    @pytest.mark.parametrize("first", [None, *ANSWERING])
    def test_none_in_traces_and_events(
        self, root: str, call: Any, first: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        path = [] if first is None else [first]
        made = ROOTS[root]()
        runnable = made if first is None else DERIVING[first](made)
        tracer = RecordingTracer()
        if first == "map" and call in ENTRIES["astream_events"]:
            with pytest.raises(NotImplementedError, match="RunnableEach"):
                call(runnable, question(root, path), config())
            return
        answer = call(runnable, question(root, path), config(tracer))
        assert tracer.runs
        assert not has_audio(repr(answer) + tracer.text() + caplog.text)
        client = client_of(runnable)
        assert [len(r["audio"]) for r in client.requests] == [1]

    def test_none_is_kept(self, root: str, call: Any) -> None:
        made = ROOTS[root]()
        store = (made if root == "chat" else made.chat).audio_store
        before = len(store)
        runnable = made.with_retry(stop_after_attempt=1) | RunnableLambda(echo)
        call(runnable, question(root, []), config())
        assert len(store) == before


@pytest.mark.parametrize("root", ["chat", "runnable"])
@pytest.mark.parametrize("first", ["with_retry", "map", "with_fallbacks", "__or__"])
@pytest.mark.parametrize("second", ANSWERING)
def test_no_audio_in_traces_after_two_methods(
    root: str, first: str, second: str
) -> None:
    runnable = DERIVING[second](DERIVING[first](ROOTS[root]()))
    tracer = RecordingTracer()
    runnable.invoke(question(root, [second, first]), config(tracer))
    assert tracer.runs
    assert not has_audio(tracer.text())


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("first", ["as_tool", "assign", "pick"])
def test_no_audio_in_traces_of_what_ends_an_answer(root: str, first: str) -> None:
    runnable, tracer = DERIVING[first](ROOTS[root]()), RecordingTracer()
    # A message has no such key, and a chat model's tool takes text.
    with contextlib.suppress(Exception):
        runnable.invoke(VOICE if root != "chat" else question(root, []), config(tracer))
    assert not has_audio(tracer.text())


@pytest.mark.parametrize("first", ANSWERING)
@pytest.mark.parametrize("root", ROOTS)
def test_session_and_tenant_are_kept(root: str, first: str) -> None:
    runnable = DERIVING[first](ROOTS[root]())
    asked = question(root, [first])
    runnable.invoke(asked, {}, session="s-1", tenant="t-1")
    runnable.invoke(asked, {"configurable": {"thread_id": uuid.UUID(int=7)}})
    told = [(r.get("session"), r.get("tenant")) for r in client_of(runnable).requests]
    assert told == [("s-1", "t-1"), (str(uuid.UUID(int=7)), None)]


CHANGES: dict[str, Callable[[Any], None]] = {
    "with_config": lambda r: setattr(r, "bound", UNGUARDED),
    "with_retry": lambda r: setattr(r, "bound", UNGUARDED),
    "map": lambda r: setattr(r, "bound", UNGUARDED),
    "with_fallbacks": lambda r: setattr(r, "fallbacks", [UNGUARDED]),
    "configurable_alternatives": lambda r: r.alternatives.update(other=UNGUARDED),
    "configurable_fields": lambda r: setattr(r, "default", UNGUARDED),
    "__or__": lambda r: setattr(r, "first", UNGUARDED),
}


@pytest.mark.filterwarnings(
    "ignore::langchain_core._api.LangChainBetaWarning",
    "ignore::langchain_core._api.LangChainDeprecationWarning",
)
class TestAtUse:
    """Parts of a runnable that are replaced after it was put together."""

    @pytest.mark.parametrize("changed", CHANGES)
    @pytest.mark.parametrize("call", WAYS_IN)
    def test_a_changed_part_answers_nothing(self, changed: str, call: Any) -> None:
        runnable = DERIVING[changed](chat())
        CHANGES[changed](runnable)
        with pytest.raises(UnguardedModelError):
            call(runnable, question("chat", [changed]), config())

    def test_nor_does_one_deep_inside(self) -> None:
        inner = chat().with_fallbacks([chat()])
        outer = inner.with_retry(stop_after_attempt=1) | StrOutputParser()
        inner.fallbacks = [UNGUARDED]
        with pytest.raises(UnguardedModelError):
            outer.invoke("Hello.")

    def test_a_factory_is_asked_anew_each_time(self) -> None:
        made: list[Any] = [chat()]
        runnable = chat().configurable_alternatives(
            ConfigurableField("m"), other=lambda: made[0]
        )
        chosen = {"configurable": {"m": "other"}}
        assert runnable.invoke("Hello.", chosen).content == "Paris."
        made[0] = UNGUARDED
        with pytest.raises(UnguardedModelError):
            runnable.invoke("Hello.", chosen)

    def test_the_ledger_has_the_request(self) -> None:
        runnable = chat().with_fallbacks([chat()])
        runnable.fallbacks = [UNGUARDED]
        with pytest.raises(UnguardedModelError):
            runnable.invoke("Hello.")
        assert [name for name, _ in client_of(runnable).failures] == [
            "UnguardedModelError"
        ]


class TestTheOnesInFront:
    def test_they_keep_the_guard(self) -> None:
        sequence = chat().__ror__(RunnableLambda(echo))
        assert sequence.invoke("Hello.").content == "Paris."
        with pytest.raises(UnguardedModelError):
            sequence.with_fallbacks([UNGUARDED])

    def test_a_function_in_front_gets_the_audio(self) -> None:
        seen: list[Any] = []
        sequence = (lambda clip: seen.append(clip) or clip) | SafeAudioRunnable(chat())
        assert sequence.invoke(VOICE).content == "Paris."
        assert seen == [VOICE]


class Answer(BaseModel):
    """An answer."""

    answer: str


class TestOneCallIsOneTrace:
    @pytest.mark.parametrize(
        ("make", "asked"),
        [
            (lambda: chat().with_structured_output(Answer), "Hello."),
            (lambda: SafeAudioRunnable(chat()) | StrOutputParser(), VOICE),
            (lambda: VoicePipelineStage(chat()), VOICE),
            (lambda: VoicePipelineStage(chat()) | RunnableLambda(echo), VOICE),
            (lambda: chat().with_retry().map() | RunnableLambda(echo), ["Hello."]),
        ],
    )
    def test_there_is_one_root_of_the_id_that_was_asked_for(
        self, make: Any, asked: Any
    ) -> None:
        runnable, tracer, run_id = make(), RecordingTracer(), uuid.uuid4()
        runnable.invoke(asked, {"callbacks": [tracer], "run_id": run_id})
        assert [run.id for run in tracer.runs] == [run_id]

    def test_events_of_a_sequence_are_all_there(self) -> None:
        runnable = chat().with_structured_output(Answer)
        events = asyncio.run(_all(runnable.astream_events("Hello.", version="v2")))
        kinds = {event["event"] for event in events}
        assert {"on_chat_model_start", "on_chat_model_end"} <= kinds
        assert {"on_chain_start", "on_chain_end", "on_parser_end"} <= kinds


class TestChatModelsOwn:
    def test_generate_hides_audio(self) -> None:
        ours, tracer = chat(), RecordingTracer()
        messages = question("chat", [])
        ours.generate([messages], callbacks=[tracer])
        ours.generate_prompt([ChatPromptValue(messages=messages)], callbacks=[tracer])
        asyncio.run(ours.agenerate([messages], callbacks=[tracer]))
        asyncio.run(
            ours.agenerate_prompt(
                [ChatPromptValue(messages=messages)], callbacks=[tracer]
            )
        )
        assert len(client_of(ours).requests) == len(tracer.runs) == 4
        assert not has_audio(tracer.text())

    def test_the_fallbacks_of_a_chat_model_take_its_methods(self) -> None:
        # langchain-core reads the annotations of the method that it passes on.
        both = chat().with_fallbacks([chat()])
        structured = both.with_structured_output(Answer)
        assert structured.invoke("Hello.") == Answer(answer="Why?")
        with pytest.raises(UnguardedModelError):
            structured.with_fallbacks([UNGUARDED])
        bound = both.bind_tools([], response_format=Answer)
        assert "Why?" in bound.invoke("Hello.").content

    def test_annotations_of_public_methods_can_be_read(self) -> None:
        for cls in (ChatSafeAudio, SafeAudioRunnable, VoicePipelineStage):
            for name, method in inspect.getmembers(cls, inspect.isfunction):
                if not name.startswith("_") and "sarguard" in method.__module__:
                    typing.get_type_hints(method)


def test_the_recording_tracer_would_see_a_voice() -> None:
    # What the tests above rely on.
    tracer = RecordingTracer()
    (RunnableLambda(echo) | RunnableLambda(echo)).invoke(VOICE, config(tracer))
    assert has_audio(tracer.text())
    assert isinstance(chat().invoke("Hello."), AIMessage)
