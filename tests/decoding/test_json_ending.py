"""An answer under a schema fits into its tokens, wherever the model would go on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sarguard import Outcome, SafeAudioLLM
from sarguard.decoding.json_grammar import JsonGrammar
from tests import tiny
from tests.tiny import leaning

pytest.importorskip("llguidance")


def an_object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "strings": an_object(setup=TEXT, punchline=TEXT),
    "number": an_object(price={"type": "number"}),
    "integer": an_object(count={"type": "integer"}),
    "a share": an_object(
        x={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    ),
    "a narrow range": an_object(x={"type": "number", "minimum": 0.85, "maximum": 0.9}),
    "time": an_object(at={"type": "string", "format": "time"}),
    "date and time": an_object(at={"type": "string", "format": "date-time"}),
    "array": an_object(items={"type": "array", "items": {"type": "integer"}}),
    "array at the top": {"type": "array", "items": TEXT},
    "nested": an_object(a=an_object(b=an_object(c=TEXT, d=TEXT), e=TEXT), f=TEXT),
    "pattern": an_object(code={"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"}),
    "long enough": an_object(name={"type": "string", "minLength": 12}),
    "either": an_object(a={"anyOf": [{"type": "integer"}, an_object(b=TEXT)]}),
    "recursive": {
        "$defs": {
            "node": an_object(
                value=TEXT, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
            )
        },
        "$ref": "#/$defs/node",
    },
    "any object": {"type": "object"},
    "optional": {"type": "object", "properties": {"a": TEXT, "b": {"type": "number"}}},
}
# What a model likes that never stops: words, digits, lists, objects.
LIKINGS = [("{", '"', "x"), ("{", "1", '"'), ("{", "[", '"'), ("{", " ", "{")]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("liking", LIKINGS, ids="".join)
def test_every_answer_is_whole(
    tiny_client: SafeAudioLLM, schema: str, liking: tuple[str, ...]
) -> None:
    shortest = shortest_of(SCHEMAS[schema])
    for limit in (len(shortest), len(shortest) + 1, len(shortest) + 9, 90):
        with leaning(tiny.shared(), *liking):
            reply = tiny_client.generate(
                text="Fill it in.", json_schema=SCHEMAS[schema], max_new_tokens=limit
            )
        json.loads(reply.text)
        assert (reply.outcome, reply.finish_reason) == (Outcome.ANSWERED, "stop")
        assert reply.usage.output_tokens <= limit


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_sampled_answer_is_whole_too(tiny_client: SafeAudioLLM, schema: str) -> None:
    limit = len(shortest_of(SCHEMAS[schema])) + 6
    for seed in range(6):
        with leaning(tiny.shared(), "{"):
            reply = tiny_client.generate(
                text="Fill it in.",
                json_schema=SCHEMAS[schema],
                max_new_tokens=limit,
                temperature=1.5,
                seed=seed,
            )
        if reply.outcome is Outcome.ANSWERED:
            json.loads(reply.text)


def test_what_cannot_fit_is_cut_and_says_so(tiny_client: SafeAudioLLM) -> None:
    limit = len(shortest_of(SCHEMAS["nested"])) - 1
    with leaning(tiny.shared(), "{", '"', "x"):
        reply = tiny_client.generate(
            text="Fill it in.", json_schema=SCHEMAS["nested"], max_new_tokens=limit
        )
    assert reply.finish_reason == "length"


def test_an_answer_with_room_is_as_it_was(tiny_client: SafeAudioLLM) -> None:
    schema = an_object(code={"enum": ["one", "two"]})
    with leaning(tiny.shared(), "{", "t"):
        replies = [
            tiny_client.generate(
                text="Fill it in.", json_schema=schema, max_new_tokens=limit
            )
            for limit in (30, 500)
        ]
    assert replies[0].text == replies[1].text
    assert json.loads(replies[0].text) == {"code": "two"}


def shortest_of(schema: dict[str, Any]) -> list[int]:
    matcher = JsonGrammar.compile(tiny.shared(), schema).matcher(500)
    found = matcher._ending.find(matcher._matcher)
    assert found is not None
    return found
