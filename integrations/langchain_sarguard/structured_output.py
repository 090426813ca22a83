"""Structured output: answers as objects of a schema, never made of a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import is_typeddict

from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.guarded_runnables import AnswerParser, GuardedRunnable
from langchain_sarguard.messages_out import raise_unless_answered

Schema: TypeAlias = dict[str, Any] | type
"""A JSON schema, a pydantic class or a TypedDict."""

METHODS = ("json_schema", "function_calling", "json_mode")
"""What other models do by a tool or by a wish, this one does by the schema as well."""
ANY_OBJECT: dict[str, Any] = {"title": "answer", "type": "object"}


def structured_output(
    chat: GuardedRunnable, schema: Schema, *, include_raw: bool, strict: bool | None
) -> Runnable[Any, Any]:
    """Return a chat model whose answers are objects of a schema.

    Raises:
        InvalidInputError: The schema is of another kind.
    """
    format_ = {"kwargs": {"method": METHODS[0]}, "schema": schema}
    answers = chat.bind(
        json_schema=to_json_schema(schema, strict=strict),
        ls_structured_output_format=format_,
    )
    return answers | StructuredAnswer(schema=schema, include_raw=include_raw)


def to_json_schema(schema: Schema, *, strict: bool | None = None) -> dict[str, Any]:
    """Return a JSON schema for what a caller described.

    Args:
        schema: A JSON schema, a pydantic class or a TypedDict.
        strict: False allows properties that the schema does not name.

    Raises:
        InvalidInputError: It is of another kind.
    """
    if isinstance(schema, Mapping):
        # As it is: langchain-core would ask for a title, and for an object.
        return {**_closed(schema, strict)}
    if not (isinstance(schema, type) and _describes_fields(schema)):
        shown = schema.__name__ if isinstance(schema, type) else type(schema).__name__
        raise InvalidInputError(
            f"a schema is a {shown}: give a JSON schema as a dict, a pydantic class or "
            "a TypedDict"
        )
    if not (is_typeddict(schema) or issubclass(schema, BaseModel)):
        # Of pydantic's first version.
        old: dict[str, Any] = _closed(convert_to_json_schema(schema), strict)
        return old
    # By pydantic itself: langchain-core would write references out, which recursive
    # ones cannot be.
    try:
        written = TypeAdapter(schema).json_schema(schema_generator=_Followable)
    except PydanticUserError as error:
        if is_typeddict(schema):
            # Of `typing`, which older versions of Python cannot look into.
            named: dict[str, Any] = _closed(convert_to_json_schema(schema), strict)
            return named
        raise InvalidInputError(
            f"{schema.__name__} makes no JSON schema: {error.message}"
        ) from error
    found: dict[str, Any] = _closed(written, strict)
    return found


def _closed(schema: Any, strict: bool | None) -> Any:  # a schema, or a part of one
    """Return a schema whose objects have no other properties than they name."""
    if strict is False:
        return schema
    if isinstance(schema, list):
        return [_closed(part, strict) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _closed(value, strict) for key, value in schema.items()}
    # A property may be called "properties": then its schema is under this key.
    if found.get("type") == "object" and isinstance(found.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found


class _Followable(GenerateJsonSchema):
    """Writes schemas that a grammar can follow; pydantic checks the rest."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """Return a number, or digits as text where they are counted."""
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        bounded = {"ge", "gt", "le", "lt", "multiple_of"} & set(schema)
        if (digits is None and places is None) or bounded:
            number = {k: v for k, v in schema.items() if k in bounded}
            return self.float_schema({"type": "float", **number})  # type: ignore[typeddict-item]
        before = "+" if digits is None else f"{{1,{max(1, digits - (places or 0))}}}"
        after = f"{{1,{places}}}" if places else "+"
        fraction = "" if places == 0 else rf"(\.[0-9]{after})?"
        return {"type": "string", "pattern": f"^-?[0-9]{before}{fraction}$"}

    def set_schema(self, schema: core_schema.SetSchema) -> JsonSchemaValue:
        """Return an array, in which an item may come twice."""
        found = super().set_schema(schema)
        found.pop("uniqueItems", None)
        return found

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        """Return text."""
        found = super().bytes_schema(schema)
        found.pop("format", None)
        return found


def _describes_fields(schema: type) -> bool:
    return is_basemodel_subclass(schema) or is_typeddict(schema)


class StructuredAnswer(AnswerParser, RunnableSerializable[BaseMessage, Any]):
    """Parser of a whole answer to an object of a schema."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    schema_: Any
    include_raw: bool = False

    def __init__(self, *, schema: Schema, include_raw: bool = False) -> None:
        """Parse answers that follow a schema.

        Args:
            schema: What they follow.
            include_raw: Return a dict of `raw`, `parsed` and `parsing_error`.
        """
        fields_of: Any = super().__init__
        fields_of(schema_=schema, include_raw=include_raw)

    def invoke(
        self, input: BaseMessage, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Return the object, or what `include_raw` asks for.

        Raises:
            AnswerRefusedError: The model declined, or the request was blocked.
            AnswerFailedError: There was a fault, a limit, a timeout or a cancellation.
            OutputParserException: The answer is not of the schema.
        """
        return self._call_with_config(self._parse, input, config, run_type="parser")

    def _parse(self, message: BaseMessage) -> Any:
        if not self.include_raw:
            return self._parsed(message)
        found: dict[str, Any] = {"raw": message, "parsed": None, "parsing_error": None}
        try:
            found["parsed"] = self._parsed(message)
        except Exception as error:
            found["parsing_error"] = error
        return found

    def _parsed(self, message: BaseMessage) -> Any:
        _check(message)
        if isinstance(self.schema_, type) and is_basemodel_subclass(self.schema_):
            parser: Any = PydanticOutputParser(pydantic_object=self.schema_)
        else:
            parser = JsonOutputParser()
        return parser.parse(str(message.text))


def _check(message: BaseMessage) -> None:
    """Raise for a message that is not an answer, or not the whole of a JSON text.

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
