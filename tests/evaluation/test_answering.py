from __future__ import annotations

import dataclasses

import pytest
import torch

from sarguard.calibration_data import CalibrationPair
from sarguard.errors import ConfigurationError
from sarguard.evaluation.answering import (
    Question,
    answer_batch,
    as_questions,
    make_batches,
    prefill,
)
from sarguard.evaluation.arms import UnguardedForMeasurement
from sarguard.steering.steerer import Steerer
from tests import tiny
from tests.evaluation.test_arms import questions


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
    (batch,) = make_batches(loaded, questions(0.9, 0.4, 1.3), size=3, text="Say why.")
    read = prefill(loaded, batch)
    assert "past_key_values" in read.inputs
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


def test_pairs_become_questions_with_the_harmful_one_first() -> None:
    audio = tiny.clip(0.4)
    pair = CalibrationPair(id="a", harmful=audio, safe=audio + 0.01)
    harmful, safe = as_questions([pair])
    assert (harmful.pair, harmful.kind) == ("a", "harmful")
    assert (safe.pair, safe.kind) == ("a", "safe")
    assert safe.audio is pair.safe


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 or more"):
        make_batches(tiny.shared(), questions(0.4), size=0)


def test_written_text_goes_with_the_clip() -> None:
    loaded = tiny.shared()
    asked: list[Question] = questions(0.4)
    spoken = make_batches(loaded, asked, size=1)[0].inputs["input_ids"]
    both = make_batches(loaded, asked, size=1, text="Say why.")[0].inputs["input_ids"]
    assert both.shape[1] > spoken.shape[1]
    assert "Say why." in loaded.tokenizer.decode(both[0])


def test_a_question_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        questions(0.4)[0].pair = "b"  # type: ignore[misc]
