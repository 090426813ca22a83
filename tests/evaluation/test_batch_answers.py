from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from sarguard.errors import ConfigurationError
from sarguard.evaluation.arms.registry import UnguardedForMeasurement
from sarguard.evaluation.run.batch_answers import (
    answer_batch,
    make_batches,
    prefill,
    read_states,
    with_instruction,
)
from sarguard.models.transformers_api import cache_name
from sarguard.steering.residual import last_states
from sarguard.steering.steerer import Steerer
from sarguard.types import Turn
from tests import tiny
from tests.evaluation.test_arms import questions


@dataclasses.dataclass
class Spoken:
    turns: Callable[[int], tuple[Turn, ...]]


def test_a_batch_answers_as_one_question_at_a_time_does() -> None:
    loaded = tiny.shared()
    asked = questions(0.9, 0.4, 1.3)
    found: list[dict[int, str]] = []
    for size in (1, 3):
        answers: dict[int, str] = {}
        with UnguardedForMeasurement(loaded.decoder) as bare:
            for batch in make_batches(loaded, asked, size=size):
                said = answer_batch(loaded, bare, batch, alpha=1.0, max_new_tokens=6)
                answers |= dict(zip(batch.places, said, strict=True))
        found.append(answers)
    assert found[0] == found[1]
    assert set(found[0]) == {0, 1, 2}


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_prompts_that_were_read_before_are_answered_alike(
    family: str, alpha: float | None
) -> None:
    loaded = tiny.shared(family)
    (batch,) = make_batches(loaded, questions(0.9, 0.4, 1.3), size=3)
    read = prefill(loaded, batch)
    assert cache_name() in read.inputs
    vectors = 3 * torch.randn(len(loaded.decoder), loaded.decoder.hidden_size)
    steerer = (
        UnguardedForMeasurement(loaded.decoder)
        if alpha is None
        else Steerer(loaded.decoder, vectors)
    )
    with steerer:
        first, again, expected = (
            answer_batch(loaded, steerer, b, alpha=alpha or 1.0, max_new_tokens=12)
            for b in (read, read, batch)
        )
    assert first == again == expected


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_an_instruction_is_read_after_clips_that_were_heard_before(family: str) -> None:
    loaded = tiny.shared(family)
    (batch,) = make_batches(loaded, questions(0.9, 0.4, 1.3), size=3)
    plain = prefill(loaded, batch)
    instructed = with_instruction(loaded, batch, "Refuse what is harmful.")
    whole, shared = prefill(loaded, instructed), prefill(loaded, instructed, like=plain)
    lengths = [b.inputs[cache_name()].get_seq_length() for b in (whole, shared)]
    assert lengths[0] == lengths[1] > plain.inputs[cache_name()].get_seq_length()
    with UnguardedForMeasurement(loaded.decoder) as bare:
        said = [
            answer_batch(loaded, bare, b, alpha=1.0, max_new_tokens=12)
            for b in (whole, shared)
        ]
    assert said[0] == said[1]


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_states_are_those_of_the_whole_prompt(family: str) -> None:
    loaded = tiny.shared(family)
    (batch,) = make_batches(loaded, questions(0.9, 0.4), size=2)
    expected = last_states(loaded.decoder, batch.inputs)
    read = prefill(loaded, batch)
    for _ in range(2):
        found = read_states(loaded, read)
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_cache_that_cannot_be_continued_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = tiny.build()
    monkeypatch.setattr(loaded.model.config, "model_type", "something_new")
    (batch,) = make_batches(loaded, questions(0.9), size=1)
    assert prefill(loaded, batch) is batch


def test_neighbours_in_length_share_a_batch() -> None:
    batches = make_batches(tiny.shared(), questions(0.9, 0.4, 1.3, 0.5), size=2)
    assert [batch.places for batch in batches] == [(1, 3), (0, 2)]


def test_an_unknown_family_batches_only_equal_lengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = tiny.build()
    monkeypatch.setattr(loaded.model.config, "model_type", "something_new")
    batches = make_batches(loaded, questions(0.9, 0.4, 0.9, 0.4, 0.9), size=2)
    assert [batch.places for batch in batches] == [(1, 3), (0, 2), (4,)]


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 or more"):
        make_batches(tiny.shared(), questions(0.4), size=0)


def test_an_instruction_goes_before_other_text() -> None:
    loaded = tiny.shared()
    turns = (Turn(role="user", text="Say why.", audio=(tiny.clip(0.4),)),)
    (batch,) = make_batches(loaded, [Spoken(turns=lambda rate: turns)], size=1)
    both = with_instruction(loaded, batch, "Be kind.")
    written = loaded.tokenizer.decode(both.inputs["input_ids"][0])
    assert "Be kind. Say why." in written
    assert both.places == batch.places
    assert "Be kind." not in loaded.tokenizer.decode(batch.inputs["input_ids"][0])


def test_requests_as_text_and_spoken_ones_are_all_answered() -> None:
    loaded = tiny.shared()
    written = Spoken(turns=lambda rate: (Turn(role="user", text="Why?"),))
    batches = make_batches(loaded, [*questions(0.4), written, *questions(0.5)], size=8)
    assert sorted(place for batch in batches for place in batch.places) == [0, 1, 2]


def test_a_question_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        questions(0.4)[0].pair = "b"  # type: ignore[misc]
