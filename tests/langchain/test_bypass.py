"""Try to get past the guard by what LangChain itself offers.

Each test shows first that a naive wrapper has the hole, then that ours has not.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_sarguard import (
    AudioVault,
    ChatSafeAudio,
    InvalidInputError,
    SafeAudioRunnable,
    UnguardedModelError,
    audio_message,
)
from pydantic import ValidationError

from sarguard import Policy, SafeAudioLLM, SteeringBundle
from sarguard.errors import PolicyFloorError
from tests import tiny
from tests.langchain.fakes import (
    FakeClient,
    Tape,
    audio_block,
    encoded,
    failing,
    wav,
)
from tests.langchain.naive import BrokenChat, NaiveChat, SerialChat, naive

UNGUARDED = FakeListChatModel(responses=["Unguarded."])


SEED = ConfigurableField("s")
SCHEMA = {"title": "a", "type": "object", "properties": {"b": {"type": "null"}}}


def chat(**settings: Any) -> ChatSafeAudio:  # noqa: ANN401
    return ChatSafeAudio.from_client(FakeClient(), **settings)


class TestFallbacks:
    def test_the_hole(self) -> None:
        broken = BrokenChat(client=None).with_fallbacks([UNGUARDED])
        assert broken.invoke("Hello.").content == "Unguarded."

    @pytest.mark.parametrize(
        "other",
        [
            UNGUARDED,
            UNGUARDED.bind(stop=["x"]),
            RunnableLambda(lambda _: "Unguarded."),
            SafeAudioRunnable(chat()) | UNGUARDED,
        ],
    )
    @pytest.mark.parametrize("way", ["chat", "binding", "configured", "runnable"])
    def test_only_guarded_models_may_stand_in(self, way: str, other: Any) -> None:  # noqa: ANN401
        ours: dict[str, Any] = {
            "chat": chat(),
            "binding": chat().bind(seed=1).bind(stop=["x"]),
            "configured": chat().with_config(tags=["a"]),
            "runnable": SafeAudioRunnable(chat()),
        }
        with pytest.raises(UnguardedModelError, match="is not guarded"):
            ours[way].with_fallbacks([other])

    @pytest.mark.parametrize(
        "make",
        [
            lambda c: c.with_retry(),
            lambda c: c.with_listeners(on_start=lambda run: None),
            lambda c: c.with_types(input_type=str),
            lambda c: c.map(),
            lambda c: c.with_fallbacks([chat()]),
            lambda c: c.configurable_fields(
                **{"alpha" if isinstance(c, NaiveChat) else "seed": SEED}
            ),
            lambda c: c.configurable_alternatives(ConfigurableField("m"), o=chat()),
            lambda c: c.bind(seed=1).with_retry(),
            lambda c: c.with_retry().bind(seed=1).with_config(tags=["a"]),
        ],
    )
    def test_whatever_is_made_of_it_keeps_to_that(self, make: Any) -> None:  # noqa: ANN401
        hole = make(naive()).with_fallbacks([UNGUARDED])
        assert UNGUARDED in hole.fallbacks
        ours = make(chat())
        with pytest.raises(UnguardedModelError):
            ours.with_fallbacks([UNGUARDED])
        with pytest.raises(UnguardedModelError):
            ours.configurable_alternatives(ConfigurableField("m2"), x=UNGUARDED)
        question: Any = ["Hello."] if "Each" in type(ours).__name__ else "Hello."
        assert "Paris." in repr(ours.with_fallbacks([chat()]).invoke(question))
        assert "sarguard" not in repr(ours.lc_id())

    def test_a_guarded_one_does(self) -> None:
        behind = chat(timeout=1.0).with_fallbacks([chat().bind(seed=2)])
        assert behind.invoke("Hello.").content == "Paris."

    def test_a_fault_is_an_answer_s_end_and_no_error(self) -> None:
        sequence = ChatSafeAudio.from_client(failing()) | RunnableLambda(lambda m: m)
        message = sequence.with_fallbacks([UNGUARDED]).invoke("Hello.")
        assert message.response_metadata["outcome"] == "error_closed"


class TestCaches:
    @pytest.fixture(autouse=True)
    def _global_cache(self) -> Iterator[None]:
        set_llm_cache(InMemoryCache())
        yield
        set_llm_cache(None)

    def test_the_hole_answers_without_the_client(self) -> None:
        model = naive()
        model.invoke("Hello.")
        model.invoke("Hello.")
        assert len(model.client.requests) == 1

    def test_the_hole_serves_one_dose_s_answer_for_another(self) -> None:
        weak, strong = naive(alpha=0.0), naive(alpha=0.2)
        weak.invoke("Hello.")
        strong.invoke("Hello.")
        assert strong.client.requests == []

    def test_a_global_cache_is_passed_by(self) -> None:
        ours = chat()
        ours.invoke("Hello.")
        ours.invoke("Hello.")
        assert isinstance(ours.client, FakeClient)
        assert len(ours.client.requests) == 2

    @pytest.mark.parametrize("cache", [True, InMemoryCache()])
    def test_a_cache_of_its_own_is_refused(self, cache: Any) -> None:  # noqa: ANN401
        with pytest.raises(ValidationError, match="takes no cache"):
            chat(cache=cache)
        with pytest.raises(ValidationError, match="frozen"):
            chat().cache = cache
        copied = chat().model_copy(update={"cache": cache})
        with pytest.raises(InvalidInputError, match="a cache was put on"):
            copied.invoke("Hello.")

    def test_the_identity_says_what_guards(self) -> None:
        identity = chat()._identifying_params
        assert {"alpha", "bundle_digest", "policy", "model_name"} <= set(identity)


class TestSettingsFromOutside:
    def test_the_hole_lowers_the_dose(self) -> None:
        model = naive()
        model.bind(alpha=0.0).invoke("Hello.")
        field = ConfigurableField(id="alpha")
        model.configurable_fields(alpha=field).invoke(
            "Hello.", {"configurable": {"alpha": 0.0}}
        )
        assert [r["alpha"] for r in model.client.requests] == [0.0, 0.0]

    @pytest.mark.parametrize(
        "given", ["alpha", "dose", "policy", "audit", "client", "cache"]
    )
    def test_a_call_cannot_carry_it(self, given: str) -> None:
        ours = chat()
        with pytest.raises(InvalidInputError, match=f"cannot take {given} with"):
            ours.bind(**{given: 0.0}).invoke("Hello.")
        assert isinstance(ours.client, FakeClient)
        assert ours.client.requests == []

    @pytest.mark.parametrize("field", ["client", "cache", "vault", "callbacks"])
    def test_a_configuration_cannot_reach_it(self, field: str) -> None:
        with pytest.raises(InvalidInputError, match="cannot be made configurable"):
            chat().configurable_fields(**{field: ConfigurableField(id="x")})

    def test_a_configuration_cannot_swap_what_is_bound(self) -> None:
        field = ConfigurableField(id="b")
        swapped = naive().bind(stop=["x"]).configurable_fields(bound=field)
        chosen: Any = {"configurable": {"b": UNGUARDED}}
        assert swapped.invoke("Hello.", chosen).content == "Unguarded."
        with pytest.raises(InvalidInputError, match="bound cannot be made"):
            chat().bind(stop=["x"]).configurable_fields(bound=field)

    def test_a_configuration_can_choose_the_rest(self) -> None:
        ours = chat().configurable_fields(max_tokens=ConfigurableField(id="n"))
        ours.invoke("Hello.", {"configurable": {"n": 3}})
        client = ours.default.client  # type: ignore[attr-defined]
        assert client.requests[0]["max_new_tokens"] == 3

    def test_an_alternative_has_to_be_guarded(self) -> None:
        which = ConfigurableField(id="model")
        swapped = naive().configurable_alternatives(which, other=UNGUARDED)
        chosen = {"configurable": {"model": "other"}}
        assert swapped.invoke("Hello.", chosen).content == "Unguarded."
        with pytest.raises(UnguardedModelError, match="an alternative"):
            chat().configurable_alternatives(which, other=UNGUARDED)
        with pytest.raises(UnguardedModelError, match="an alternative"):
            chat().configurable_alternatives(which, other=lambda: UNGUARDED)

    def test_a_tier_below_the_floor_is_no_answer(
        self, tiny_bundle: SteeringBundle
    ) -> None:
        policy = Policy.build(
            {
                "id": "high",
                "steering": {"tier": "strict"},
                "audit": {"required": False},
            }
        )
        shared = tiny.shared()
        with SafeAudioLLM.from_model(
            shared.model, shared.processor, bundle=tiny_bundle, policy=policy
        ) as client:
            ours = client.as_langchain(max_tokens=2)
            with pytest.raises(PolicyFloorError, match="the floor of policy high"):
                ours.bind(tier="permissive").invoke("Hello.")

    def test_the_client_cannot_be_swapped(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            chat().client = FakeClient()


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
class TestDeserialised:
    def test_the_hole_comes_back_without_its_guard(self) -> None:
        written = dumps(SerialChat(alpha=0.2)).replace('"alpha": 0.2', '"alpha": 0.0')
        back = loads(written, allowed_objects=[SerialChat], valid_namespaces=["tests"])
        assert back.invoke("Hello.").content == "Naive."
        assert [r["alpha"] for r in back.client.requests] == [0.0]

    def test_ours_is_not_written_at_all(self) -> None:
        assert dumpd(chat())["type"] == "not_implemented"
        assert "client" not in dumps(chat())

    @pytest.mark.parametrize(
        "make",
        [
            lambda c: c,
            lambda c: c.bind(tier="maximum"),
            lambda c: c.bind(tier="maximum").with_retry(),
            lambda c: c.with_fallbacks([chat()]),
            lambda c: c | RunnableLambda(lambda message: message),
            lambda c: c.with_structured_output(SCHEMA),
        ],
    )
    def test_nothing_that_holds_it_comes_back(self, make: Any) -> None:  # noqa: ANN401
        written = dumps(make(chat())).replace("maximum", "permissive")
        with pytest.raises(NotImplementedError):
            loads(
                written,
                allowed_objects="all",
                valid_namespaces=["langchain_sarguard"],
            )

    def test_it_is_not_pickled(self) -> None:
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(chat(vault=AudioVault()))

    @pytest.mark.parametrize("given", [{}, {"alpha": 0.0}, {"client": None}])
    def test_nobody_else_s_writing_makes_one(self, given: dict[str, Any]) -> None:
        forged = {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain_sarguard", "chat_models", "ChatSafeAudio"],
            "kwargs": given,
        }
        with pytest.raises((ValueError, NotImplementedError)):
            load(
                forged,
                allowed_objects=[ChatSafeAudio],
                valid_namespaces=["langchain_sarguard"],
            )


class _Auditor(BaseCallbackHandler):
    """Keep a record, as people do, and break."""

    def __init__(self) -> None:
        self.records: list[str] = []

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        raise OSError("the disk is full")


class TestARaisingCallback:
    def test_the_hole_answers_without_a_record(self) -> None:
        auditor = _Auditor()
        message = naive().invoke("Hello.", {"callbacks": [auditor]})
        assert (message.content, auditor.records) == ("Naive.", [])

    def test_the_record_is_the_client_s(self) -> None:
        client = FakeClient(audit_id="r-1")
        message = ChatSafeAudio.from_client(client).invoke(
            "Hello.", {"callbacks": [_Auditor()]}
        )
        assert message.response_metadata["audit_id"] == "r-1"


class _Ear(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        self.heard.append(repr((serialized, messages, kwargs)))


SOUND = wav(0.4)
CARRIED = {
    "standard": audio_block(SOUND),
    "openai": {
        "type": "input_audio",
        "input_audio": {"data": encoded(SOUND), "format": "wav"},
    },
    "legacy": {
        "type": "audio",
        "source_type": "base64",
        "data": encoded(SOUND),
        "mime_type": "audio/wav",
    },
    "google": {"type": "media", "data": SOUND, "mime_type": "audio/wav"},
}


async def everything(events: AsyncIterator[Any]) -> None:
    """Hear a stream of events to its end; none of them holds the sound."""
    assert not holds_sound(repr([event async for event in events]))


def holds_sound(text: str) -> bool:
    return encoded(SOUND)[200:400] in text or repr(SOUND[200:260])[2:-1] in text


class TestTracers:
    def test_the_hole(self) -> None:
        tape = Tape()
        message = HumanMessage(content=[CARRIED["standard"]])
        naive().invoke([message], {"callbacks": [tape]})
        assert holds_sound(tape.text())

    @pytest.mark.parametrize("shape", CARRIED)
    @pytest.mark.parametrize(
        "way", ["invoke", "stream", "batch", "generate", "v3", "async", "events"]
    )
    @pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
    def test_what_is_told_has_no_sound(
        self, way: str, shape: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        tape, ear = Tape(), _Ear()
        told: Any = {"callbacks": [tape, ear]}
        ours = chat(vault=AudioVault())
        message = HumanMessage(content=[CARRIED[shape], "Hear."])
        if way == "invoke":
            ours.invoke([message], told)
        elif way == "stream":
            list(ours.stream([message], told))
        elif way == "batch":
            ours.batch([[message]], told)
        elif way == "generate":
            ours.generate([[message]], callbacks=[tape, ear])
        elif way == "async":
            asyncio.run(ours.abatch([[message]], told))
        elif way == "events":
            asyncio.run(everything(ours.astream_events([message], told, version="v2")))
        else:
            assert ours.stream_events([message], told, version="v3").output
        assert isinstance(ours.client, FakeClient)
        assert len(ours.client.requests[0]["audio"]) == 1
        assert len(ear.heard) == 1
        assert "sar_" in ear.heard[0]
        assert "sar_" in tape.text()
        assert not holds_sound(tape.text() + "".join(ear.heard) + caplog.text)
        # What the caller made is as it was.
        assert message.content[0] == CARRIED[shape]

    def test_a_pipe_that_begins_with_sound_has_none_in_its_trace(self) -> None:
        tape = Tape()
        told: Any = {"callbacks": [tape]}
        echo = RunnableLambda(lambda sound: sound)
        (echo | RunnableLambda(lambda m: m)).invoke(SOUND, told)
        assert holds_sound(tape.text())
        tape.runs.clear()
        pipe = SafeAudioRunnable(chat()) | RunnableLambda(lambda m: m.content)
        assert pipe.invoke(SOUND, told) == "Paris."
        assert tape.runs
        assert not holds_sound(tape.text())

    def test_a_named_clip_is_heard_and_never_told(self) -> None:
        tape = Tape()
        chat().invoke([audio_message(SOUND, "Hear.")], {"callbacks": [tape]})
        assert not holds_sound(tape.text())
