"""Structured output: answers as objects of a schema, never made of a refusal."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_sarguard.audio_runnables import AudioSequence
from langchain_sarguard.guarded_runnables import GuardedRunnable
from langchain_sarguard.messages_out import raise_unless_answered

if TYPE_CHECKING:
    from langchain_sarguard.chat_models import ChatSafeAudio

Schema: TypeAlias = "dict[str, Any] | type"
"""A JSON schema, a pydantic class or a TypedDict."""

METHOD = "json_schema"


class GuardedSequence(GuardedRunnable, AudioSequence):
    """Guarded model and the parsers behind it; its fallbacks have to be guarded."""


def structured_output(
    chat: ChatSafeAudio, schema: Schema, *, include_raw: bool, strict: bool | None
) -> Runnable[Any, Any]:
    """Return a chat model whose answers are objects of a schema.

    Raises:
        ValueError: The schema is of another kind.
    """
    closed = strict is not False
    json_schema = convert_to_json_schema(schema, strict=closed or None)
    answers = chat.bind(
        json_schema=json_schema,
        ls_structured_output_format={"kwargs": {"method": METHOD}, "schema": schema},
    )
    check, parser = RunnableLambda(_checked), _parser(schema)
    if not include_raw:
        return _sequence(answers, check | parser)
    # The parsing error is returned, so the fallback of the parser is a plain function:
    # the model itself is not asked again.
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | check | parser, parsing_error=lambda _: None
    )
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    raw: Runnable[Any, Any] = RunnableLambda(lambda message: {"raw": message})
    either = parsed.with_fallbacks([unparsed], exception_key="parsing_error")
    return _sequence(answers, raw | either)


def _sequence(
    answers: Runnable[Any, Any], rest: Runnable[Any, Any]
) -> Runnable[Any, Any]:
    # Type checkers take a guarded runnable for a serialisable one, made from fields.
    make: Any = GuardedSequence
    sequence: Runnable[Any, Any] = make(answers, rest)
    return sequence


def _checked(message: BaseMessage) -> BaseMessage:
    """Return a message that is an answer and the whole of a JSON text.

    Both are checked before parsing: a refusal in words would be faulty JSON to a
    parser, and langchain-core's own makes half an object of half a text.
    """
    raise_unless_answered(message)
    text = str(message.text)
    try:
        json.loads(text)
    except ValueError as error:
        cut = message.response_metadata.get("finish_reason") == "length"
        remedy = "it was cut at max_tokens: raise that" if cut else "ask again"
        raise OutputParserException(
            f"the answer is not the whole of a JSON text ({error}): {remedy}",
            llm_output=text,
        ) from error
    return message


def _parser(schema: Schema) -> Runnable[BaseMessage, Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticOutputParser(pydantic_object=schema)
    return JsonOutputParser()
