"""Answers as objects: a schema in, an object out, a refusal never mistaken for one."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import (
    Runnable,
    RunnableLambda,
    RunnablePassthrough,
)
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_sarguard.audio_runnables import SoundPipe
from langchain_sarguard.guarded_runnables import GuardedWays
from langchain_sarguard.messages_out import raise_if_withheld

if TYPE_CHECKING:
    from langchain_sarguard.chat_models import ChatSafeAudio

Schema: TypeAlias = "dict[str, Any] | type"
"""A JSON schema, a pydantic class or a TypedDict."""

METHOD = "json_schema"


class GuardedPipe(GuardedWays, SoundPipe):
    """Parse what a guarded model answers; only guarded models may stand in."""


def structured(
    chat: ChatSafeAudio, schema: Schema, *, include_raw: bool, strict: bool | None
) -> Runnable[Any, Any]:
    """Return a chat model whose answers are objects.

    Raises:
        ValueError: The schema is of another kind.
    """
    closed = strict is not False
    written = convert_to_json_schema(schema, strict=closed or None)
    answers = chat.bind(
        json_schema=written,
        ls_structured_output_format={"kwargs": {"method": METHOD}, "schema": schema},
    )
    check, parser = RunnableLambda(_answered), _parser(schema)
    if not include_raw:
        return _pipe(answers, check | parser)
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | check | parser, parsing_error=lambda _: None
    )
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    named: Runnable[Any, Any] = RunnableLambda(lambda message: {"raw": message})
    either = parsed.with_fallbacks([unparsed], exception_key="parsing_error")
    return _pipe(answers, named | either)


def _pipe(answers: Runnable[Any, Any], rest: Runnable[Any, Any]) -> Runnable[Any, Any]:
    # To a type checker all guarded ways are serialisable runnables, which take fields.
    made: Any = GuardedPipe
    pipe: Runnable[Any, Any] = made(answers, rest)
    return pipe


def _answered(message: BaseMessage) -> BaseMessage:
    """Let a whole answer pass; a refusal in words is no faulty JSON."""
    raise_if_withheld(message)
    text = str(message.text)
    try:
        json.loads(text)
    except ValueError as error:
        # langchain-core's parsers make half an object of half a text.
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
