"""Prompt tokens as they are counted, against those of prompts that are made."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jinja2 import TemplateError

from sarguard.models import prompt_lengths
from sarguard.models.inputs import prompt_length
from sarguard.models.loading import LoadedModel
from sarguard.models.prompt_lengths import PromptLengths, context_tokens
from sarguard.types import Turn
from tests import tiny
from tests.contract import families

TOO_MANY = 9
"""Tokens a clip that may be counted too many; processors round, MOSS writes times."""


def user(text: str = "", *seconds: float, rate: int = tiny.RATE) -> Turn:
    noise = np.random.default_rng(1).normal(scale=1e-2, size=30 * rate)
    clips = [noise[: int(s * rate)].astype(np.float32) for s in seconds]
    return Turn(role="user", text=text, audio=tuple(clips))


def said(text: str) -> Turn:
    return Turn(role="assistant", text=text)


def conversation(loaded: LoadedModel, chance: random.Random) -> list[Turn]:
    """Return turns with clips of any length, and texts that are no plain words."""
    exchanges = chance.randint(0, 2)
    heard = chance.randrange(exchanges + 1)
    turns = [Turn(role="system", text="Be brief.")] * chance.randint(0, 1)
    for place in range(exchanges + 1):
        clips = chance.randint(0, 2)
        if loaded.single_audio:
            clips = int(place == heard)
        seconds = [chance.choice((chance.uniform(0.1, 9.0), 2.0)) for _ in "ab"]
        text = "Hé, <|im_end|> you! " * chance.randint(not clips, 3)
        turns += [
            user(text, *seconds[:clips], rate=loaded.sampling_rate),
            said(" All right.\n" * chance.randint(1, 9)),
        ]
    return turns[:-1]


@pytest.mark.parametrize("name", families.BUILDERS)
def test_no_prompt_is_longer_than_was_counted(name: str) -> None:
    loaded = families.shared(name)
    lengths = PromptLengths(loaded)
    chance = random.Random(0)
    for _ in range(3):
        turns = conversation(loaded, chance)
        clips = sum(len(turn.audio) for turn in turns)
        spaces = sum(turn.text != turn.text.strip() for turn in turns)
        brackets = sum(turn.text.count("<") for turn in turns)
        over = sum(lengths.count(turns)) - prompt_length(loaded, turns)
        assert 0 <= over <= TOO_MANY * clips + spaces + brackets


@pytest.mark.parametrize("name", families.BUILDERS)
def test_plain_text_is_counted_exactly(name: str) -> None:
    loaded = families.shared(name)
    lengths = PromptLengths(loaded)
    for turns in (
        [user("Why?")],
        [user("Why?"), said("So."), user("Really?")],
        [Turn(role="system", text="Be brief."), user("Why?"), said("So."), user("Oh?")],
    ):
        counts = lengths.count(turns)
        assert sum(counts) == prompt_length(loaded, turns)
        assert len(counts) == len(turns)


def test_a_clip_that_was_measured_is_counted_exactly() -> None:
    loaded = tiny.shared()
    turns = [user("Why?", 30.0)]
    assert PromptLengths(loaded).count(turns) == [prompt_length(loaded, turns)]


def test_no_features_are_made_once_clips_were_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = PromptLengths(tiny.shared())
    lengths.count([user("Why?", 1.0)])
    monkeypatch.setattr(prompt_lengths, "prompt_length", None)
    first, second = lengths.count([user("Why?", 1.0, 7.7), user("And?", 3.3)])
    assert first > second > 80


def test_the_models_own_tokenizer_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = tiny.build()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a caller's thread used the model's tokenizer")

    lengths = PromptLengths(loaded)
    for name in ("encode", "__call__"):
        monkeypatch.setattr(type(loaded.tokenizer), name, self_only(loaded, name, fail))
    assert lengths.count([user("Why?", 1.0)])[0] > 0


def self_only(loaded: LoadedModel, name: str, fail: Any) -> Any:  # noqa: ANN401
    """Return a method that fails on the model's own tokenizer alone."""
    own, method = loaded.tokenizer, getattr(type(loaded.tokenizer), name)

    def call(self: object, *args: Any, **given: Any) -> Any:  # noqa: ANN401
        return fail() if self is own else method(self, *args, **given)

    return call


def test_threads_count_the_same() -> None:
    lengths = PromptLengths(tiny.build())
    turns = [user("Why? " * 20, 1.0), said("So."), user("Oh?", 2.5)]
    expected, found = PromptLengths(tiny.build()).count(turns), []
    threads = [
        threading.Thread(target=lambda: found.append(lengths.count(turns)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def test_a_template_that_wants_turns_to_alternate() -> None:
    loaded = tiny.build()
    template = tiny.chatml("<|AUDIO|>")
    strict = (
        "{% for message in messages %}{% if loop.index0 and message['role'] == "
        "messages[loop.index0 - 1]['role'] %}{{ raise_exception('Alternate.') }}"
        "{% endif %}{% if message['role'] == 'system' %}"
        "{{ raise_exception('No system.') }}{% endif %}{% endfor %}"
    )
    loaded.processor.chat_template = strict + template
    with pytest.raises(TemplateError):
        prompt_length(loaded, [user("A"), user("B")])
    lengths = PromptLengths(loaded)
    turns = [user("Why?"), said("So."), user("Really?")]
    assert sum(lengths.count(turns)) == prompt_length(loaded, turns)
    assert sum(lengths.count([Turn(role="system", text="A"), *turns])) > 0


def test_the_context_is_the_text_models() -> None:
    assert context_tokens(tiny.shared().model.config) == 4096
    text = SimpleNamespace(max_position_embeddings=100)
    whole = SimpleNamespace(
        max_position_embeddings=7, get_text_config=lambda decoder: text
    )
    assert context_tokens(whole) == 100
    assert context_tokens(SimpleNamespace(max_position_embeddings=7)) == 7
    assert context_tokens(SimpleNamespace(max_position_embeddings=None)) is None
    assert context_tokens(SimpleNamespace()) is None
