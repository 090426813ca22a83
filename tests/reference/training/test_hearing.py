from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sarguard.reference.training import hearing as module
from sarguard.reference.training.features import collate
from sarguard.reference.training.hearing import (
    SpeechEncoder,
    edit_distance,
    transcribe,
    word_error_rate,
    words,
)
from tests.reference.training.students import Student, clips

Batch = tuple[SpeechEncoder, Tensor, Tensor, list[Tensor]]


@pytest.fixture
def batch(tiny_student: Student) -> Batch:
    """Return the hearing, its frames and counts of every clip, and what was said."""
    encoder, preprocessor = tiny_student.encoder().eval(), tiny_student.preprocessor
    features, lengths = collate([preprocessor.features(clip, None) for clip in clips()])
    with torch.no_grad():
        frames, counts = encoder.encode(features, lengths)
    return encoder, frames, counts, [preprocessor.tokens(clip.text) for clip in clips()]


def test_frames_are_those_of_the_models_own_forward(
    tiny_student: Student, batch: Batch
) -> None:
    model, processor = tiny_student.model, tiny_student.processor
    _, frames, counts, _ = batch
    inputs = processor(
        text=["<|audio_bos|><|AUDIO|><|audio_eos|>"] * len(frames),
        audio=[clip.samples.astype("float32") / 32768 for clip in clips()],
        sampling_rate=16_000,
        return_tensors="pt",
        padding=True,
    )
    caught: list[Tensor] = []
    projector = model.model.multi_modal_projector
    hook = projector.register_forward_hook(lambda *args: caught.append(args[2]))
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    audio = inputs["input_ids"] == model.config.audio_token_id
    assert audio.sum(1).tolist() == counts.tolist()
    assert len(set(counts.tolist())) == len(counts)
    for row, expected, count in zip(frames, caught[0], counts, strict=True):
        torch.testing.assert_close(row[:count], expected[:count], atol=1e-5, rtol=1e-5)


def test_a_clip_is_heard_alike_in_any_batch(
    tiny_student: Student, batch: Batch
) -> None:
    encoder, frames, counts, _ = batch
    alone = collate([tiny_student.preprocessor.features(clips()[0], None)])
    with torch.no_grad():
        found, count = encoder.encode(*alone)
    assert count.tolist() == counts[:1].tolist()
    shared = int(count)
    torch.testing.assert_close(
        found[0, :shared], frames[0, :shared], atol=1e-5, rtol=1e-5
    )


def full_loss(batch: Batch) -> Tensor:
    encoder, frames, counts, said = batch
    return F.ctc_loss(
        encoder.scores(frames).transpose(0, 1),
        torch.cat(said),
        counts,
        torch.tensor([len(row) for row in said]),
    )


def test_scores_are_log_probabilities(batch: Batch) -> None:
    encoder, frames, _, _ = batch
    scores = encoder.scores(frames)
    assert scores.shape == (*frames.shape[:2], 1 + len(encoder.targets))
    torch.testing.assert_close(
        scores.exp().sum(-1), torch.ones(frames.shape[:2]), atol=1e-5, rtol=0
    )


def test_a_frame_at_a_tokens_embedding_is_that_token(batch: Batch) -> None:
    encoder = batch[0]
    frames = torch.cat([encoder.blank[None], encoder.targets])[None]
    expected = list(range(1 + len(encoder.targets)))
    assert encoder.scores(frames).argmax(-1).tolist() == [expected]


def test_with_every_class_sampled_the_loss_is_plain_ctc(batch: Batch) -> None:
    encoder, frames, counts, said = batch
    torch.testing.assert_close(
        encoder.loss(frames, counts, said), full_loss(batch), atol=1e-5, rtol=1e-5
    )


def test_a_sampled_negative_is_weighted_for_those_left_out(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, frames, counts, said = batch
    spoken = torch.cat(said).unique() - 1
    unsaid = torch.ones(len(encoder.targets), dtype=torch.bool)
    unsaid[spoken] = False
    # Where all rivals score the same, a few of them must count for all.
    encoder.targets[unsaid] = encoder.targets[unsaid][0].clone()
    monkeypatch.setattr(module, "NEGATIVES", 2)
    assert int(unsaid.sum()) > module.NEGATIVES
    torch.testing.assert_close(
        encoder.loss(frames, counts, said), full_loss(batch), atol=1e-5, rtol=1e-5
    )


def test_the_head_is_kept(tiny_student: Student, batch: Batch, tmp_path: Path) -> None:
    encoder, frames, _, _ = batch
    path, vocabulary = (
        tmp_path / "head.safetensors",
        tiny_student.preprocessor.vocabulary,
    )
    with torch.no_grad():
        encoder.blank += 0.1
        encoder.log_tau += 0.2
    encoder.save_head(path, vocabulary)
    found, classes = SpeechEncoder.from_head(tiny_student.model, path)
    assert classes == vocabulary
    assert not found.training
    assert torch.equal(found.scores(frames), encoder.scores(frames))


def test_repeats_and_blanks_are_collapsed(tiny_student: Student) -> None:
    a, b = tiny_student.tokenizer("ab")["input_ids"]
    paths = torch.tensor(
        [
            [0, 1, 1, 0, 1, 2, 2, 0],
            [1, 2, 0, 0, 0, 2, 1, 1],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ]
    )
    scores = F.one_hot(paths, 3).float().log()
    counts = torch.tensor([8, 3, 8])
    texts = transcribe(scores, counts, (a, b), tiny_student.tokenizer)
    assert texts == ["aab", "ab", ""]


SPOKEN = st.lists(st.sampled_from("abc"), max_size=6)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "rate"),
    [
        ("how do i bake bread", "how do i bake bread", 0.0),
        ("How do I bake bread?", "how do i bake bread", 0.0),
        ("how do i bake bread", "how do i fake bread", 1 / 5),
        ("how do i bake bread", "how do bake bread", 1 / 5),
        ("how do i bake bread", "how how do i bake bread", 1 / 5),
        ("how do i bake bread", "", 1.0),
        ("a b c d", "b c d e", 2 / 4),
        ("one", "one two three", 2.0),
        ("someone's car", "someones car", 1 / 2),
    ],
)
def test_one_sentence(reference: str, hypothesis: str, rate: float) -> None:
    assert word_error_rate([reference], [hypothesis]) == pytest.approx(rate)


def test_a_rate_is_over_all_the_words() -> None:
    said = ["one two three four five six", "seven eight"]
    heard = ["one two three four five six", "seven"]
    assert word_error_rate(said, heard) == pytest.approx(1 / 8)


def test_nothing_said_has_a_rate() -> None:
    assert word_error_rate([], []) == 0
    assert word_error_rate(["..."], ["two words"]) == 2


def test_sentences_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        word_error_rate(["one", "two"], ["one"])


def test_words_are_lower_case_without_punctuation() -> None:
    assert words('  "Don\'t" stop: 2 cats, OK?') == ["don't", "stop", "2", "cats", "ok"]


def plain_distance(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    """Follow the definition, without the table."""

    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        swap = distance(i - 1, j - 1) + (left[i - 1] != right[j - 1])
        return min(swap, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(left), len(right))


@given(SPOKEN, SPOKEN)
@settings(deadline=None)
def test_the_distance_is_the_definitions(left: list[str], right: list[str]) -> None:
    found = edit_distance(left, right)
    assert found == plain_distance(tuple(left), tuple(right))
    assert found == edit_distance(right, left)


@given(SPOKEN, SPOKEN, SPOKEN)
@settings(deadline=None)
def test_the_distance_is_a_metric(a: list[str], b: list[str], c: list[str]) -> None:
    assert edit_distance(a, a) == 0
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
