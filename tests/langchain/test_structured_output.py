"""Structured output: objects of the schema, and errors for refusals."""

from __future__ import annotations

import json
from datetime import date, time
from decimal import Decimal
from typing import Any, Literal

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_sarguard import (
    AnswerFailedError,
    AnswerRefusedError,
    ChatSafeAudio,
    InvalidInputError,
    UnguardedModelError,
    audio_message,
)
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from sarguard import SafeAudioLLM
from tests import tiny
from tests.langchain.fakes import (
    FakeClient,
    RecordingTracer,
    audio_block,
    encoded,
    failing,
    refusing,
    wav,
)
from tests.tiny import leaning

pytest.importorskip("llguidance")


class Booking(BaseModel):
    """What the caller wants to book."""

    seat: bool
    nights: bool | None = None


class BookingDict(TypedDict):
    """What the caller wants to book."""

    seat: bool


SCHEMA = {
    "title": "booking",
    "type": "object",
    "properties": {"seat": {"type": "boolean"}},
    "required": ["seat"],
}


def structured(client: SafeAudioLLM, schema: Any = SCHEMA, **options: Any) -> Any:
    return ChatSafeAudio.from_client(client).with_structured_output(schema, **options)


class TestOverATinyModel:
    @pytest.mark.parametrize(
        ("schema", "kind"), [(Booking, Booking), (BookingDict, dict), (SCHEMA, dict)]
    )
    def test_every_kind_of_schema_is_followed(
        self, tiny_client: SafeAudioLLM, schema: Any, kind: type
    ) -> None:
        books = structured(tiny_client, schema)
        with leaning(tiny.shared(), "{"):
            booked = books.invoke([audio_message(wav(), "What is booked?")])
            (streamed,) = books.stream("What is booked?")
        for found in (booked, streamed):
            assert isinstance(found, kind)
            names = found.model_dump() if isinstance(found, Booking) else found
            assert isinstance(names["seat"], bool)

    def test_the_model_may_still_decline(self, tiny_client: SafeAudioLLM) -> None:
        with leaning(tiny.shared(), "I", "{"), pytest.raises(AnswerRefusedError):
            structured(tiny_client).invoke("What is booked?")

    def test_a_cut_text_is_a_parsing_error(self, tiny_client: SafeAudioLLM) -> None:
        cut = ChatSafeAudio.from_client(tiny_client, max_tokens=3)
        books = cut.with_structured_output(SCHEMA, include_raw=True)
        with leaning(tiny.shared(), "{"):
            found = books.invoke("What is booked?")
        assert found["parsed"] is None
        assert isinstance(found["parsing_error"], OutputParserException)
        assert "raise that" in str(found["parsing_error"])
        assert found["raw"].response_metadata["finish_reason"] == "length"


class TestWithoutAnAnswer:
    def test_it_raises_what_raise_on_refusal_raises(self) -> None:
        with pytest.raises(AnswerRefusedError, match="I cannot assist"):
            structured(refusing()).invoke("Book it.")
        with pytest.raises(AnswerFailedError, match="SteeringNotApplied"):
            structured(failing()).invoke("Book it.")

    @pytest.mark.parametrize(
        ("client", "kind"),
        [(refusing(), AnswerRefusedError), (failing(), AnswerFailedError)],
    )
    def test_with_include_raw_it_is_the_parsing_error(
        self, client: FakeClient, kind: type[Exception]
    ) -> None:
        found = structured(client, include_raw=True).invoke("Book it.")
        assert found["parsed"] is None
        assert type(found["parsing_error"]) is kind
        assert found["raw"].content == client.reply.text

    def test_text_that_is_not_json_is_a_parsing_error(self) -> None:
        with pytest.raises(OutputParserException):
            structured(FakeClient("Paris.")).invoke("Book it.")


class TestTheRequest:
    def test_it_has_the_schema_and_an_instruction(self) -> None:
        client = FakeClient('{"seat": true}')
        assert structured(client).invoke("Book it.") == {"seat": True}
        (request,) = client.requests
        assert request["json_schema"]["additionalProperties"] is False
        text, schema = request["text"].split("\n\nAnswer with one JSON object that ")
        assert text == "Book it."
        assert json.loads(schema.partition(": ")[2]) == request["json_schema"]

    def test_objects_may_be_left_open(self) -> None:
        client = FakeClient('{"seat": true}')
        structured(client, strict=False).invoke("Book it.")
        assert "additionalProperties" not in client.requests[0]["json_schema"]

    def test_without_a_schema_nothing_is_added(self) -> None:
        client = FakeClient()
        ChatSafeAudio.from_client(client).invoke([HumanMessage("Book it.")])
        assert client.requests[0]["text"] == "Book it."
        assert client.requests[0]["json_schema"] is None

    @pytest.mark.parametrize("options", [{"method": "grammar"}, {"x": 1}])
    def test_another_method_is_refused_by_name(self, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidInputError, match="use one of the methods"):
            structured(FakeClient(), **options)


class TestTheGuard:
    def test_fallbacks_have_to_be_guarded(self) -> None:
        unguarded = FakeListChatModel(responses=["{}"])
        for options in ({}, {"include_raw": True}):
            books = structured(FakeClient(), **options)
            with pytest.raises(UnguardedModelError):
                books.with_fallbacks([unguarded])
            with pytest.raises(UnguardedModelError):
                books.bind(seed=1).with_retry().with_fallbacks([unguarded])
            with pytest.raises(UnguardedModelError):
                books.with_config(tags=["a"]).with_fallbacks([unguarded])

    @pytest.mark.parametrize("options", [{}, {"include_raw": True}])
    def test_tracers_get_no_audio(self, options: dict[str, Any]) -> None:
        client = FakeClient('{"seat": true}')
        message = HumanMessage(content=[audio_block(wav()), "What is booked?"])
        tracer = RecordingTracer()
        structured(client, **options).invoke([message], {"callbacks": [tracer]})
        assert len(client.requests[0]["audio"]) == 1
        assert "sar_" in tracer.text()
        assert encoded(wav())[200:300] not in tracer.text()

    def test_a_guarded_fallback_is_taken(self) -> None:
        broken = structured(FakeClient("Paris."))
        behind = broken.with_fallbacks([structured(FakeClient('{"seat": true}'))])
        assert behind.invoke("Book it.") == {"seat": True}


class Node(BaseModel):
    """A node of a list."""

    value: int
    next: Node | None = None


class Kinds(BaseModel):
    """What pydantic users write."""

    price: Decimal
    exact: Decimal = Field(max_digits=5, decimal_places=2)
    day: date
    at: time
    share: float = Field(gt=0, lt=1)
    numbers: set[int] = Field(min_length=1, max_length=2)
    raw: bytes = Field(max_length=5)
    color: Literal["red", "blue"]
    either: int | bool
    named: int = Field(alias="the name")
    nested: list[Booking] = Field(min_length=1, max_length=2)
    pair: tuple[int, bool]
    perhaps: int | None


class TestSchemasAsPydanticUsersWriteThem:
    @pytest.mark.parametrize("schema", [Node, Kinds], ids=lambda s: s.__name__)
    @pytest.mark.parametrize("likes", ['{"x', "{1", "{[", "{ "], ids=str)
    def test_answers_are_objects_of_the_class(
        self, tiny_client: SafeAudioLLM, schema: Any, likes: str
    ) -> None:
        chat = ChatSafeAudio.from_client(tiny_client, max_tokens=330)
        with tiny.leaning(tiny.shared(), *likes):
            found = chat.with_structured_output(schema).invoke("Fill it in.")
        assert isinstance(found, schema)

    def test_an_array_at_the_top_and_a_schema_without_a_title(
        self, tiny_client: SafeAudioLLM
    ) -> None:
        chat = ChatSafeAudio.from_client(tiny_client, max_tokens=40)
        array = {"type": "array", "items": {"type": "integer"}, "maxItems": 2}
        untitled = {"type": "object", "properties": {"a": {"type": "boolean"}}}
        with tiny.leaning(tiny.shared(), "[", "1", "{"):
            assert isinstance(chat.with_structured_output(array).invoke("Hi"), list)
        with tiny.leaning(tiny.shared(), "{"):
            assert isinstance(chat.with_structured_output(untitled).invoke("Hi"), dict)

    def test_a_refused_pattern_says_why(self, tiny_client: SafeAudioLLM) -> None:
        pattern = {"type": "string", "pattern": "^(?!bad)[a-z]+$"}
        schema = {"type": "object", "properties": {"a": pattern}, "required": ["a"]}
        with pytest.raises(ValueError, match="look-ahead and look-behind, is not"):
            structured(tiny_client, schema).invoke("Hi")

    @pytest.mark.parametrize("bad", ["text", 7, int, None.__class__, []])
    def test_what_is_no_schema_is_named(self, bad: Any) -> None:
        chat = ChatSafeAudio.from_client(FakeClient())
        with pytest.raises(InvalidInputError, match="a schema is a"):
            chat.with_structured_output(bad)
