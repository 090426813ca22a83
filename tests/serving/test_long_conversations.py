"""Long conversations with the engine of this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import Recipe
from sarguard.client import SafeAudioLLM
from sarguard.errors import InvalidRequestError
from sarguard.models.loading import LoadedModel
from sarguard.models.prompt_lengths import PromptLengths
from sarguard.types import Outcome, Turn
from tests import tiny

Open = Callable[..., SafeAudioLLM]
CONTEXT = 700


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.build(max_position_embeddings=CONTEXT)


def test_a_call_goes_on_and_no_prompt_leaves_the_context(
    opened: Open, loaded: LoadedModel
) -> None:
    client = opened()
    history: list[Turn] = []
    trimmed, longest = [], 0
    for number in range(12):
        clip = (tiny.clip(1.0 + 0.1 * number), tiny.RATE)
        reply = client.generate(clip, "What now?", history=history, max_new_tokens=8)
        assert reply.outcome in (Outcome.ANSWERED, Outcome.REFUSED)
        assert reply.usage.output_tokens == 8 or reply.finish_reason == "stop"
        longest = max(longest, reply.usage.prompt_tokens)
        trimmed.append(reply.guard.trimmed)
        asked = client.turn("user", text="What now?", audio=clip)
        history += [asked, reply.as_turn()]
    assert trimmed[0] == 0 < trimmed[-1]
    assert trimmed == sorted(trimmed)
    # In steps: it does not change with every turn, and the context is made use of.
    assert len(set(trimmed)) < len([count for count in trimmed if count])
    assert CONTEXT * 3 / 4 < longest <= CONTEXT - 8


def test_an_answer_ends_where_the_context_does(opened: Open) -> None:
    client = opened()
    reply = client.generate(text="a" * 200, max_new_tokens=100_000)
    assert reply.finish_reason in ("length", "stop")
    assert reply.usage.prompt_tokens + reply.usage.output_tokens <= CONTEXT
    # Half of the context is kept for an answer that may be as long.
    with pytest.raises(InvalidRequestError, match=r"room for 350.*max_new_tokens"):
        client.generate(text="a" * 400, max_new_tokens=100_000)
    assert client.generate(text="a" * 400, max_new_tokens=2).usage.output_tokens


def test_what_was_counted_too_short_is_refused_all_the_same(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptLengths, "count", lambda _, turns: [1] * len(turns))
    client = opened()
    with pytest.raises(InvalidRequestError, match=r"do not fit into the 700 that"):
        client.generate(text="a" * 690, max_new_tokens=8)
    assert client.generate(text="Hi.", max_new_tokens=2).usage.output_tokens == 2


def test_a_family_of_one_clip_goes_on_talking() -> None:
    loaded = tiny.build("glmasr")
    made = calibrate(loaded, tiny.pairs(3), Recipe(rank=2), needs_refusal=False)
    with SafeAudioLLM.from_loaded(loaded, made, alpha=0.1) as client:
        history: list[Turn] = []
        for trimmed in (0, 2, 4):
            clip = (tiny.clip(0.5), tiny.RATE)
            reply = client.generate(clip, history=history, max_new_tokens=2)
            assert reply.guard.trimmed == trimmed
            history += [client.turn("user", audio=clip), reply.as_turn()]
        reply = client.generate(text="Again?", history=history, max_new_tokens=2)
        assert (reply.guard.trimmed, reply.usage.audio_tokens > 0) == (4, True)
