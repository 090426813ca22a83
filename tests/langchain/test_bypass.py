"""Attempts to get past the guard by what LangChain itself offers.

Each class shows first that a naive chat model lets it happen, then that ours does not.
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
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_sarguard import (
    AudioStore,
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
    RecordingTracer,
    audio_block,
    encoded,
    failing,
    wav,
)
from tests.langchain.naive import BrokenChat, NaiveChat, SerialChat, naive
from tests.serving.fakes import FakeBackend

UNGUARDED = FakeListChatModel(responses=["Unguarded."])


SEED = ConfigurableField("s")
SCHEMA = {"title": "a", "type": "object", "properties": {"b": {"type": "null"}}}


def chat(**settings: Any) -> ChatSafeAudio:
    return ChatSafeAudio.from_client(FakeClient(), **settings)


class TestFallbacks:
    def test_a_naive_model_falls_back_to_anything(self) -> None:
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
    @pytest.mark.parametrize("kind", ["chat", "binding", "configured", "runnable"])
    def test_fallbacks_have_to_be_guarded(self, kind: str, other: Any) -> None:
        ours: dict[str, Any] = {
            "chat": chat(),
            "binding": chat().bind(seed=1).bind(stop=["x"]),
            "configured": chat().with_config(tags=["a"]),
            "runnable": SafeAudioRunnable(chat()),
        }
        with pytest.raises(UnguardedModelError, match="is not guarded"):
            ours[kind].with_fallbacks([other])

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
    def test_derived_runnables_are_guarded_too(self, make: Any) -> None:
        naively = make(naive()).with_fallbacks([UNGUARDED])
        assert UNGUARDED in naively.fallbacks
        ours = make(chat())
        with pytest.raises(UnguardedModelError):
            ours.with_fallbacks([UNGUARDED])
        with pytest.raises(UnguardedModelError):
            ours.configurable_alternatives(ConfigurableField("m2"), x=UNGUARDED)
        question: Any = ["Hello."] if "Each" in type(ours).__name__ else "Hello."
        assert "Paris." in repr(ours.with_fallbacks([chat()]).invoke(question))
        assert "sarguard" not in repr(ours.lc_id())

    def test_a_guarded_fallback_is_taken(self) -> None:
        behind = chat(timeout=1.0).with_fallbacks([chat().bind(seed=2)])
        assert behind.invoke("Hello.").content == "Paris."

    def test_a_fault_of_the_guard_triggers_no_fallback(self) -> None:
        sequence = ChatSafeAudio.from_client(failing()) | RunnableLambda(lambda m: m)
        message = sequence.with_fallbacks([chat()]).invoke("Hello.")
        assert message.response_metadata["outcome"] == "error_closed"


class TestCaches:
    @pytest.fixture(autouse=True)
    def _global_cache(self) -> Iterator[None]:
        set_llm_cache(InMemoryCache())
        yield
        set_llm_cache(None)

    def test_a_naive_model_answers_without_the_client(self) -> None:
        model = naive()
        model.invoke("Hello.")
        model.invoke("Hello.")
        assert len(model.client.requests) == 1

    def test_a_naive_model_shares_answers_between_alphas(self) -> None:
        weak, strong = naive(alpha=0.0), naive(alpha=0.2)
        weak.invoke("Hello.")
        strong.invoke("Hello.")
        assert strong.client.requests == []

    def test_a_global_cache_is_not_used(self) -> None:
        ours = chat()
        ours.invoke("Hello.")
        ours.invoke("Hello.")
        assert isinstance(ours.client, FakeClient)
        assert len(ours.client.requests) == 2

    @pytest.mark.parametrize("cache", [True, InMemoryCache()])
    def test_a_cache_of_its_own_is_refused(self, cache: Any) -> None:
        with pytest.raises(ValidationError, match="takes no cache"):
            chat(cache=cache)
        with pytest.raises(ValidationError, match="frozen"):
            chat().cache = cache
        copied = chat().model_copy(update={"cache": cache})
        with pytest.raises(InvalidInputError, match="a cache was put on"):
            copied.invoke("Hello.")

    def test_the_cache_key_depends_on_the_guard(self) -> None:
        identity = chat()._identifying_params
        assert {"alpha", "bundle_digest", "policy", "model_name"} <= set(identity)

    def test_it_tells_what_a_tier_does_and_not_what_the_bundle_names(
        self, tiny_bundle: SteeringBundle
    ) -> None:
        found = {}
        for tier in ("permissive", "maximum"):
            backend = FakeBackend(
                "Gladly.",
                vectors_digest=tiny_bundle.card.vectors_digest,
                layers=tiny_bundle.card.layers,
            )
            with SafeAudioLLM(backend, tiny_bundle, tier=tier) as client:
                model = ChatSafeAudio.from_client(client, max_tokens=1)
                identity = model._identifying_params
                reply = model.invoke("Hello.")
            # The fake's score is that of a harmless request.
            assert reply.response_metadata["alpha"] == identity["alpha"]
            found[tier] = (identity["alpha"], identity["block_threshold"])
        assert found["permissive"] != found["maximum"]


class TestSettingsFromOutside:
    def test_a_naive_model_lets_callers_lower_alpha(self) -> None:
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
    def test_a_call_cannot_set_it(self, given: str) -> None:
        ours = chat()
        with pytest.raises(InvalidInputError, match=f"cannot take {given} with"):
            ours.bind(**{given: 0.0}).invoke("Hello.")
        assert isinstance(ours.client, FakeClient)
        assert ours.client.requests == []

    @pytest.mark.parametrize("field", ["client", "cache", "audio_store", "callbacks"])
    def test_a_configuration_cannot_set_it(self, field: str) -> None:
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
class TestSerialisation:
    def test_a_naive_model_comes_back_without_its_guard(self) -> None:
        written = dumps(SerialChat(alpha=0.2)).replace('"alpha": 0.2', '"alpha": 0.0')
        back = loads(written, allowed_objects=[SerialChat], valid_namespaces=["tests"])
        assert back.invoke("Hello.").content == "Naive."
        assert [r["alpha"] for r in back.client.requests] == [0.0]

    def test_ours_is_not_serialised(self) -> None:
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
    def test_nothing_that_contains_it_comes_back(self, make: Any) -> None:
        written = dumps(make(chat())).replace("maximum", "permissive")
        with pytest.raises(NotImplementedError):
            loads(
                written,
                allowed_objects="all",
                valid_namespaces=["langchain_sarguard"],
            )

    def test_it_is_not_pickled(self) -> None:
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(chat(audio_store=AudioStore()))

    @pytest.mark.parametrize("given", [{}, {"alpha": 0.0}, {"client": None}])
    def test_a_forged_file_makes_none(self, given: dict[str, Any]) -> None:
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


class _FailingAuditor(BaseCallbackHandler):
    """Callback that keeps records, as applications do, and fails."""

    def __init__(self) -> None:
        self.records: list[str] = []

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        raise OSError("the disk is full")


class TestARaisingCallback:
    def test_a_naive_model_answers_without_a_record(self) -> None:
        auditor = _FailingAuditor()
        message = naive().invoke("Hello.", {"callbacks": [auditor]})
        assert (message.content, auditor.records) == ("Naive.", [])

    def test_the_record_is_the_client_s(self) -> None:
        client = FakeClient(audit_id="r-1")
        message = ChatSafeAudio.from_client(client).invoke(
            "Hello.", {"callbacks": [_FailingAuditor()]}
        )
        assert message.response_metadata["audit_id"] == "r-1"


class _RecordingHandler(BaseCallbackHandler):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        **kwargs: Any,
    ) -> None:
        self.calls.append(repr((serialized, messages, kwargs)))


VOICE = wav(0.4)
AUDIO_BLOCKS = {
    "standard": audio_block(VOICE),
    "openai": {
        "type": "input_audio",
        "input_audio": {"data": encoded(VOICE), "format": "wav"},
    },
    "legacy": {
        "type": "audio",
        "source_type": "base64",
        "data": encoded(VOICE),
        "mime_type": "audio/wav",
    },
    "google": {"type": "media", "data": VOICE, "mime_type": "audio/wav"},
}


async def read_all(events: AsyncIterator[Any]) -> None:
    """Read a stream of events to its end; none of them holds the audio."""
    assert not has_audio(repr([event async for event in events]))


def has_audio(text: str) -> bool:
    return encoded(VOICE)[200:400] in text or repr(VOICE[200:260])[2:-1] in text


class TestTracers:
    def test_a_naive_model_records_a_voice(self) -> None:
        tracer = RecordingTracer()
        message = HumanMessage(content=[AUDIO_BLOCKS["standard"]])
        naive().invoke([message], {"callbacks": [tracer]})
        assert has_audio(tracer.text())

    @pytest.mark.parametrize("shape", AUDIO_BLOCKS)
    @pytest.mark.parametrize(
        "method", ["invoke", "stream", "batch", "generate", "v3", "async", "events"]
    )
    @pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
    def test_callbacks_get_no_audio(
        self, method: str, shape: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        tracer, handler = RecordingTracer(), _RecordingHandler()
        config: Any = {"callbacks": [tracer, handler]}
        ours = chat(audio_store=AudioStore())
        message = HumanMessage(content=[AUDIO_BLOCKS[shape], "Hear."])
        if method == "invoke":
            ours.invoke([message], config)
        elif method == "stream":
            list(ours.stream([message], config))
        elif method == "batch":
            ours.batch([[message]], config)
        elif method == "generate":
            ours.generate([[message]], callbacks=[tracer, handler])
        elif method == "async":
            asyncio.run(ours.abatch([[message]], config))
        elif method == "events":
            asyncio.run(read_all(ours.astream_events([message], config, version="v2")))
        else:
            assert ours.stream_events([message], config, version="v3").output
        assert isinstance(ours.client, FakeClient)
        assert len(ours.client.requests[0]["audio"]) == 1
        assert len(handler.calls) == 1
        assert "sar_" in handler.calls[0]
        assert "sar_" in tracer.text()
        assert not has_audio(tracer.text() + "".join(handler.calls) + caplog.text)
        # The caller's own message is unchanged.
        assert message.content[0] == AUDIO_BLOCKS[shape]

    def test_a_sequence_after_a_clip_does_not_trace_it(self) -> None:
        tracer = RecordingTracer()
        config: Any = {"callbacks": [tracer]}
        echo = RunnableLambda(lambda clip: clip)
        (echo | RunnableLambda(lambda m: m)).invoke(VOICE, config)
        assert has_audio(tracer.text())
        tracer.runs.clear()
        sequence = SafeAudioRunnable(chat()) | RunnableLambda(lambda m: m.content)
        assert sequence.invoke(VOICE, config) == "Paris."
        assert tracer.runs
        assert not has_audio(tracer.text())

    def test_a_named_clip_is_used_and_not_recorded(self) -> None:
        tracer = RecordingTracer()
        chat().invoke([audio_message(VOICE, "Hear.")], {"callbacks": [tracer]})
        assert not has_audio(tracer.text())


class TestAgreeingAfterABlock:
    """A blocked question, and "Yes, sure." to the words in place of an answer."""

    def test_a_naive_model_is_handed_the_question_again(self) -> None:
        client = FakeClient()
        asked = [HumanMessage("How?"), AIMessage("No."), HumanMessage("Yes, sure.")]
        ChatSafeAudio.from_client(client).invoke(asked)
        assert [t.text for t in client.requests[0]["history"]] == ["How?", "No."]

    @pytest.mark.parametrize("bare", [False, True], ids=["metadata", "words alone"])
    def test_it_has_left_the_prompt(
        self, tiny_bundle: SteeringBundle, bare: bool
    ) -> None:
        backend = FakeBackend(
            "Gladly.",
            vectors_digest=tiny_bundle.card.vectors_digest,
            layers=tiny_bundle.card.layers,
            score=1e9,
        )
        rules = {"block_threshold": 100}
        policy = Policy.build({"steering": rules, "audit": {"required": False}})
        with SafeAudioLLM(backend, tiny_bundle, policy=policy) as client:
            model = ChatSafeAudio.from_client(client)
            question = HumanMessage("How?")
            first = model.invoke([question])
            assert first.response_metadata["outcome"] == "blocked"
            backend.score = -1.0
            kept = AIMessage(first.text) if bare else first
            second = model.invoke([question, kept, HumanMessage("Yes, sure.")])
        assert [turn.text for turn in backend.asked[-1].turns] == ["Yes, sure."]
        assert second.response_metadata["left_out"] == 2
