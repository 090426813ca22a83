"""Answers under a schema match it, or they are refusals, and nothing between."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest
import torch

from sarguard import Done, Outcome, SafeAudioLLM, TextDelta
from sarguard.decoding import json_grammar
from sarguard.errors import InvalidRequestError, MissingDependencyError
from sarguard.refusal import is_refusal
from tests import tiny
from tests.tiny import leaning

pytest.importorskip("llguidance")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "I'm sorry, Rome"]},
        "sure": {"type": "boolean"},
    },
    "required": ["city", "sure"],
    "additionalProperties": False,
}


class TestUnderASchema:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_an_answer_follows_it(
        self, tiny_client: SafeAudioLLM, temperature: float
    ) -> None:
        with leaning(tiny.shared(), "{"):
            reply = tiny_client.generate(
                text="Which city?", json_schema=SCHEMA, temperature=temperature, seed=1
            )
        assert json.loads(reply.text)["city"] in ("Paris", "I'm sorry, Rome")
        assert (reply.outcome, reply.finish_reason) == (Outcome.ANSWERED, "stop")
        assert reply.guard.steered_positions == reply.usage.output_tokens

    def test_words_of_others_in_it_are_no_refusal(
        self, tiny_client: SafeAudioLLM
    ) -> None:
        with leaning(tiny.shared(), "{", "I"):
            reply = tiny_client.generate(text="Which city?", json_schema=SCHEMA)
        assert json.loads(reply.text)["city"] == "I'm sorry, Rome"
        assert is_refusal(reply.text)
        assert reply.outcome is Outcome.ANSWERED

    @pytest.mark.parametrize("first", ["I", "S"])
    def test_the_model_can_still_decline(
        self, tiny_client: SafeAudioLLM, first: str
    ) -> None:
        with leaning(tiny.shared(), first, "{"):
            reply = tiny_client.generate(text="Which city?", json_schema=SCHEMA)
        assert json_grammar.declines(reply.text)
        assert reply.outcome is Outcome.REFUSED

    def test_a_refusal_is_one_short_line(self, tiny_client: SafeAudioLLM) -> None:
        with leaning(tiny.shared(), "S", "\n"):
            reply = tiny_client.generate(
                text="Which city?", json_schema=SCHEMA, max_new_tokens=500
            )
        assert "\n" not in reply.text
        assert len(reply.text) <= 305
        assert reply.finish_reason == "stop"

    def test_whatever_is_drawn_is_one_or_the_other(
        self, tiny_client: SafeAudioLLM
    ) -> None:
        replies = tiny_client.generate_batch(
            {
                "text": "Which city?",
                "json_schema": SCHEMA,
                "temperature": 1.0,
                "seed": seed,
                "max_new_tokens": 400,
            }
            for seed in range(12)
        )
        for reply in replies:
            if reply.outcome is Outcome.ANSWERED:
                json.loads(reply.text)
            else:
                assert reply.outcome is Outcome.REFUSED
                assert json_grammar.declines(reply.text)

    def test_rows_of_a_batch_keep_to_their_own(self, tiny_client: SafeAudioLLM) -> None:
        free: Any = {"text": "Hello.", "max_new_tokens": 8}
        bound: Any = {"text": "Which city?", "json_schema": SCHEMA}
        alone = [tiny_client.generate(**free).text, tiny_client.generate(**bound).text]
        together = [r.text for r in tiny_client.generate_batch([free, bound])]
        assert together == alone

    def test_a_cut_says_so(self, tiny_client: SafeAudioLLM) -> None:
        with leaning(tiny.shared(), "{"):
            reply = tiny_client.generate(
                text="Which city?", json_schema=SCHEMA, max_new_tokens=4
            )
        assert reply.finish_reason == "length"

    def test_streams_give_the_same(self, tiny_client: SafeAudioLLM) -> None:
        async def pieces() -> list[Any]:
            stream = tiny_client.astream(text="Which city?", json_schema=SCHEMA)
            return [event async for event in stream]

        with leaning(tiny.shared(), "{"):
            events = asyncio.run(pieces())
        said = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert isinstance(events[-1], Done)
        assert json.loads(said) == json.loads(events[-1].reply.text)

    def test_nobody_s_schema_lets_white_space_run_on(
        self, tiny_client: SafeAudioLLM
    ) -> None:
        schema = {**SCHEMA, "x-guidance": {"whitespace_pattern": " *"}}
        with leaning(tiny.shared(), "{", " "):
            reply = tiny_client.generate(text="Which city?", json_schema=schema)
        assert "  " not in reply.text
        assert reply.outcome is Outcome.ANSWERED

    def test_an_answer_has_the_order_of_its_own_schema(
        self, tiny_client: SafeAudioLLM
    ) -> None:
        turned = dict(reversed(SCHEMA["properties"].items()))
        with leaning(tiny.shared(), "{"):
            for properties in (SCHEMA["properties"], turned):
                schema = {**SCHEMA, "properties": properties}
                reply = tiny_client.generate(text="Which city?", json_schema=schema)
                assert list(json.loads(reply.text)) == list(properties)

    def test_a_caller_may_change_a_schema_that_was_asked_for(
        self, tiny_client: SafeAudioLLM
    ) -> None:
        schema = {**SCHEMA}
        request = tiny_client.build_request(text="Which city?", json_schema=schema)
        schema["type"] = "nonsense"
        with leaning(tiny.shared(), "{"), tiny_client.send(request) as stream:
            *_, last = stream
        assert isinstance(last, Done)
        assert "city" in json.loads(last.reply.text)

    def test_a_schema_that_is_compiled_keeps_no_other_waiting(
        self, tiny_client: SafeAudioLLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on, compiling = threading.Event(), threading.Event()
        with leaning(tiny.shared(), "{"):
            tiny_client.generate(text="Which city?", json_schema=SCHEMA)

            def compile_slowly(*_: object) -> None:
                compiling.set()
                go_on.wait(30)
                raise InvalidRequestError("too large")

            def ask() -> None:
                with suppress(InvalidRequestError):
                    tiny_client.generate(
                        text="Which?", json_schema={**SCHEMA, "title": "Other"}
                    )

            monkeypatch.setattr(json_grammar.JsonGrammar, "compile", compile_slowly)
            other = threading.Thread(target=ask)
            other.start()
            assert compiling.wait(30)
            try:
                reply = tiny_client.generate(
                    text="Which city?", json_schema=SCHEMA, timeout=10
                )
            finally:
                go_on.set()
                other.join()
        assert reply.outcome is Outcome.ANSWERED

    def test_a_schema_that_breaks_down_is_no_answer(
        self, tiny_client: SafeAudioLLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lose(self: json_grammar.JsonMatcher, token: int) -> None:
            self._matcher.consume_token(0)

        monkeypatch.setattr(json_grammar.JsonMatcher, "accept", lose)
        with leaning(tiny.shared(), "{"):
            reply = tiny_client.generate(text="Which city?", json_schema=SCHEMA)
        assert reply.outcome is Outcome.ERROR_CLOSED
        assert "the schema was not followed" in str(reply.guard.fault)


class TestWhatCannotBeFollowed:
    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            ({"type": "poem"}, "Invalid type: poem"),
            ({"$ref": "https://example.org/a.json"}, "does not fetch resources"),
            ({"type": "string", "default": object()}, "cannot be written as JSON"),
            ("object", "give a JSON Schema as a mapping"),
        ],
    )
    def test_a_bad_schema_is_the_caller_s_to_hear(
        self,
        tiny_client: SafeAudioLLM,
        schema: Any,  # noqa: ANN401
        said: str,
    ) -> None:
        with pytest.raises(InvalidRequestError, match=said):
            tiny_client.generate(text="Hello.", json_schema=schema)

    def test_without_the_library_it_is_named(
        self, tiny_client: SafeAudioLLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "llguidance", None)
        with pytest.raises(MissingDependencyError, match=r"sarguard\[json\]"):
            # Schemas that were compiled before are kept, and need it no more.
            tiny_client.generate(text="Hello.", json_schema={**SCHEMA, "title": "New"})

    def test_a_tokenizer_that_cannot_be_read_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = tiny.build()
        monkeypatch.setattr(
            "llguidance.hf.from_tokenizer",
            lambda *_, **__: (_ for _ in ()).throw(ValueError("only fast ones")),
        )
        with pytest.raises(InvalidRequestError, match="only fast ones"):
            json_grammar.JsonGrammar.compile(loaded, SCHEMA)


class TestWhetherToDecline:
    """The first token of an answer under a schema."""

    @pytest.mark.parametrize("suspect", [False, True])
    @pytest.mark.parametrize(
        ("likes", "harmless"),
        [("xI{", "{"), ("I{x", "I"), ("{Ix", "{"), ("x{I", "{"), ("SI{", "S")],
    )
    def test_a_harmless_request_is_declined_where_it_would_be_without_a_schema(
        self, likes: str, harmless: str, suspect: bool
    ) -> None:
        loaded = tiny.shared()
        matcher = json_grammar.JsonGrammar.compile(loaded, SCHEMA).matcher(100)
        scores = torch.zeros(len(loaded.tokenizer))
        for rank, letter in enumerate(likes):
            (token,) = loaded.tokenizer.encode(letter, add_special_tokens=False)
            scores[token] = 10.0 - rank
        token = int(matcher.mask(scores, suspect=suspect).argmax())
        chosen = loaded.tokenizer.decode([token])
        # As soon as it is likelier than JSON where the request may be harmful.
        cautious = next(letter for letter in likes if letter in "IS{")
        assert chosen == (cautious if suspect else harmless)
