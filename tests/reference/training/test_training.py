"""Every stage on a tiny model: a few steps help, and a stopped run goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sarguard.reference import train as train_module
from sarguard.reference.difference import apply_alignment, apply_difference
from sarguard.reference.training import stage as stage_module
from sarguard.reference.training import train_answering, train_hearing
from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import (
    REFUSAL,
    TRANSCRIBE,
    AdaptedTextModel,
    Example,
    divergence,
)
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.export import export, load_encoder
from sarguard.reference.training.features import collate
from sarguard.reference.training.hearing import SpeechEncoder
from sarguard.reference.training.lookup import LookupEncoder
from sarguard.reference.training.train_answering import (
    measure_agreement,
    transcript,
    written_down,
)
from sarguard.reference.training.train_hearing import (
    BATCH_SECONDS,
    ClipStage,
    HearingStage,
    LookupStage,
    batches,
    heard,
    train_on_clips,
)
from sarguard.reference.training.train_hearing import lookup_loss as combined_loss
from tests.reference.training.students import (
    SENTENCES,
    StepBudget,
    Student,
    clips,
    student,
)

ANSWERS = ((40, 41, 42), (9, 80), (33, 34, 35, 36), (60,))


@pytest.fixture(autouse=True)
def _no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "WARM_UP_STEPS", 1)


def train(made: Student, stage: ClipStage) -> None:
    train_on_clips(
        stage,
        made.preprocessor,
        clips(),
        seed=0,
        evaluate=lambda: "evaluated",
        report=lambda _: None,
    )


def train_ears(
    made: Student, encoder: SpeechEncoder, steps: int, checkpoint: Path
) -> None:
    train(made, HearingStage(encoder, StepBudget(steps), checkpoint))


def frames_of(made: Student, encoder: SpeechEncoder) -> tuple[Tensor, Tensor]:
    features, lengths = collate([made.preprocessor.features(x, None) for x in clips()])
    with torch.no_grad():
        return encoder.encode(features, lengths)


def hearing_loss(made: Student, encoder: SpeechEncoder) -> float:
    said = [made.preprocessor.tokens(clip.text) for clip in clips()]
    return float(encoder.loss(*frames_of(made, encoder), said).detach())


def weights(encoder: SpeechEncoder) -> list[Tensor]:
    return [value.clone() for value in encoder.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_batch_holds_clips_of_like_length_and_every_clip_once() -> None:
    rng = random.Random(1)
    lengths = [rng.randint(9_600, 96_000) for _ in range(2_000)]
    mute = [Clip(text="", voice="", samples=np.zeros(n, np.int16)) for n in lengths]
    passed = list(batches(mute, rng))
    assert sorted(len(c.samples) for b in passed for c in b) == sorted(lengths)
    for batch in passed:
        seconds = [clip.seconds for clip in batch]
        # Lengths are jittered by up to half a second before they are sorted.
        assert max(seconds) - min(seconds) <= 0.75
        assert sum(seconds) <= BATCH_SECONDS + 0.5 * len(batch)
    middles = [batch[0].seconds for batch in passed]
    assert middles != sorted(middles), "batches come in a shuffled order"


@pytest.mark.slow
def test_hearing_learns_and_goes_on(tmp_path: Path) -> None:
    made, path = student(layers=1), tmp_path / "hearing.pt"
    encoder = made.encoder()
    before, frozen = hearing_loss(made, encoder), encoder.tower.conv1.weight.clone()
    train_ears(made, encoder, 25, path)
    learnt = hearing_loss(made, encoder)
    assert learnt < 0.8 * before
    assert torch.equal(encoder.tower.conv1.weight, frozen)

    other = student(layers=1, seed=3)
    resumed = other.encoder()
    resumed.tower.load_state_dict(
        student(layers=1).model.model.audio_tower.state_dict()
    )
    train_ears(other, resumed, 25, path)
    assert same(weights(resumed), weights(encoder)), "the budget was spent: no step"
    train_ears(made, resumed, 35, path)
    assert torch.load(path, weights_only=True)["step"] == 35
    assert not same(weights(resumed), weights(encoder))
    rate, texts = heard(resumed.eval(), made.preprocessor, clips())
    assert len(texts) == len(SENTENCES)
    assert rate >= 0


def lookup_loss(made: Student, lookup: LookupEncoder) -> float:
    features, lengths = collate([made.preprocessor.features(x, None) for x in clips()])
    said = [made.preprocessor.tokens(clip.text) for clip in clips()]
    heard = lookup.training_output(features, lengths, said)
    return float(combined_loss(heard).detach())


def look_up(made: Student, lookup: LookupEncoder, steps: int, checkpoint: Path) -> None:
    train(made, LookupStage(lookup, StepBudget(steps), checkpoint))


@pytest.mark.slow
def test_the_lookup_learns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model as small as this one takes larger steps.
    rates = [10 * rate for rate in train_hearing.RATES]
    monkeypatch.setattr(train_hearing, "RATES", rates)
    made, path = student(layers=1), tmp_path / "lookup.pt"
    lookup = made.lookup()
    before, said = lookup_loss(made, lookup), lookup.layer.fc2.weight.clone()
    look_up(made, lookup, 25, path)
    assert lookup_loss(made, lookup) < 0.9 * before
    assert torch.equal(lookup.layer.fc2.weight, said), "what is said is not trained"

    other = student(layers=1)
    resumed = other.lookup()
    look_up(other, resumed, 25, path)
    assert same(weights(resumed), weights(lookup)), "the budget was spent: no step"
    look_up(other, resumed, 30, path)
    assert torch.load(path, weights_only=True)["step"] == 30
    assert not same(weights(resumed), weights(lookup))


def reader_of(made: Student) -> tuple[AdaptedTextModel, Adapters]:
    torch.manual_seed(0)
    adapters = Adapters(made.model.model.language_model)
    return AdaptedTextModel(made.model, made.tokenizer, adapters), adapters


def examples() -> list[Example]:
    return [
        Example(text=text, instruction="Answer the caller.", answer=answer)
        for text, answer in zip(SENTENCES, ANSWERS, strict=True)
    ]


def gap(made: Student, encoder: SpeechEncoder, text_model: AdaptedTextModel) -> float:
    rows = [row[:n] for row, n in zip(*frames_of(made, encoder), strict=True)]
    with torch.no_grad():
        student_reading = text_model.student_output(examples(), rows)
    return float(divergence(student_reading, text_model.teacher_output(examples())))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return stage 3, with all of the lessons in a batch."""
    monkeypatch.setattr(train_answering, "BATCH", len(SENTENCES))
    monkeypatch.setattr(train_answering, "TRANSCRIPTS", 2)

    def run(
        made: Student,
        encoder: LookupEncoder,
        text_model: AdaptedTextModel,
        adapters: Adapters,
        steps: int,
        path: Path,
        *,
        hears: bool = True,
    ) -> None:
        budget = StepBudget(steps)
        train_answering.train_answering(
            train_answering.AnsweringStage(
                encoder,
                text_model,
                adapters,
                made.preprocessor,
                budget,
                path,
                hears=hears,
            ),
            examples(),
            {clip.text: [clip] for clip in clips()},
            seed=0,
            evaluate=lambda: "evaluated",
            report=lambda _: None,
        )

    return run


@pytest.mark.slow
def test_answering_learns_and_goes_on(
    answers: Callable[..., None], tmp_path: Path
) -> None:
    made, path = student(), tmp_path / "answering.pt"
    encoder, (text_model, adapters) = made.lookup(), reader_of(made)
    before = gap(made, encoder, text_model)
    answers(made, encoder, text_model, adapters, 8, path)
    assert gap(made, encoder, text_model) < 0.9 * before

    other = student(seed=0)
    resumed, (again, others) = other.lookup(), reader_of(other)
    answers(other, resumed, again, others, 8, path)
    assert same(weights(resumed), weights(encoder)), "the budget was spent: no step"
    assert same([*others.parameters()], [*adapters.parameters()])
    answers(other, resumed, again, others, 9, path)
    assert torch.load(path, weights_only=True)["step"] == 9
    assert not same([*others.parameters()], [*adapters.parameters()])
    share = measure_agreement(
        resumed,
        again,
        other.preprocessor,
        examples(),
        {clip.text: clip for clip in clips()},
    )
    assert 0 <= share <= 1


@pytest.mark.slow
def test_adapters_learn_from_hearing_as_it_is_and_to_write_down(
    answers: Callable[..., None], tmp_path: Path
) -> None:
    made, path = student(), tmp_path / "reading.pt"
    encoder, (text_model, adapters) = made.lookup(), reader_of(made)
    said = [transcript(text_model, text, TRANSCRIBE[0]) for text in SENTENCES]

    def cost() -> float:
        rows = [row[:n] for row, n in zip(*frames_of(made, encoder), strict=True)]
        words = torch.tensor([token for x in said for token in x.answer])
        with torch.no_grad():
            found = text_model.student_output(said, rows)
        return float(torch.nn.functional.cross_entropy(found.logits, words))

    heard_before, before = weights(encoder), cost()
    answers(made, encoder, text_model, adapters, 12, path, hears=False)
    assert same(weights(encoder), heard_before)
    assert cost() < 0.9 * before
    # What was written into the prompt's place of the answer ends the sentence.
    assert all(x.answer[-1] == made.tokenizer.eos_token_id for x in said)
    rate, texts = written_down(encoder, text_model, made.preprocessor, clips())
    assert len(texts) == len(SENTENCES)
    assert rate >= 0


def test_what_is_exported_is_what_was_trained(tmp_path: Path) -> None:
    made = student(layers=2)
    encoder, (_, adapters) = made.lookup(), reader_of(made)
    for parameter in [*encoder.parameters(), *adapters.parameters()]:
        if parameter.requires_grad:
            noise = 0.02 * torch.randn_like(parameter)
            # Numbers that the difference's float16 holds.
            parameter.data = (parameter.data + noise).half().float()
    encoder.sync_model()
    for parameter in encoder.layer.parameters():
        parameter.data = parameter.data.half().float()
    rounded = [value.clone() for value in encoder.layer.fc1.parameters()]
    alignment = {n: torch.zeros_like(t) for n, t in adapters.tensors().items()}
    export(tmp_path, encoder, alignment, adapters, made.preprocessor.vocabulary)
    for parameter, value in zip(encoder.layer.fc1.parameters(), rounded, strict=True):
        parameter.data = value
    merged = student(layers=2)
    apply_difference(merged.model, tmp_path / "difference.safetensors")
    loaded, vocabulary = SpeechEncoder.from_head(
        merged.model, tmp_path / "hearing_head.safetensors"
    )
    assert vocabulary == made.preprocessor.vocabulary
    frames, counts = frames_of(made, encoder)
    found, found_counts = frames_of(merged, loaded)
    torch.testing.assert_close(found, frames, atol=1e-4, rtol=1e-4)
    assert counts.tolist() == found_counts.tolist()
    ids = torch.tensor([[5, 9, 30, 77]])
    with torch.no_grad():
        torch.testing.assert_close(
            merged.model(input_ids=ids).logits,
            made.model(input_ids=ids).logits,
            atol=1e-4,
            rtol=1e-4,
        )


def test_the_alignment_and_what_reads_are_one_difference(tmp_path: Path) -> None:
    made = student(layers=2)
    exact = {
        n: p.clone() for n, p in made.model.model.language_model.named_parameters()
    }
    _, aligned = reader_of(made)
    vary(aligned)
    alignment = aligned.tensors()
    aligned.merge(exact)
    encoder, (_, adapters) = made.lookup(), reader_of(made)
    vary(adapters)
    export(tmp_path, encoder, alignment, adapters, made.preprocessor.vocabulary)
    merged = student(layers=2)
    apply_difference(merged.model, tmp_path / "difference.safetensors")
    ids = torch.tensor([[5, 9, 30, 77]])
    with torch.no_grad():
        expected = made.model(input_ids=ids).logits
        found = merged.model(input_ids=ids).logits
        plain = student(layers=2).model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - plain).abs().max() > 0.01
    # The alignment can be had without the rest.
    teacher, only_aligned = student(layers=2), student(layers=2)
    apply_alignment(teacher.model, tmp_path / "difference.safetensors")
    _, again = reader_of(only_aligned)
    again.load(alignment)
    with torch.no_grad():
        torch.testing.assert_close(
            teacher.model(input_ids=ids).logits,
            only_aligned.model(input_ids=ids).logits,
            atol=1e-4,
            rtol=1e-4,
        )


def vary(adapters: Adapters) -> None:
    for parameter in adapters.parameters():
        noise = 0.05 * torch.randn_like(parameter)
        # Numbers that the difference's float16 holds.
        parameter.data = (parameter.data + noise).half().float()


def test_a_run_takes_over_what_an_earlier_export_heard(tmp_path: Path) -> None:
    made = student(layers=2)
    encoder, (_, adapters) = made.lookup(), reader_of(made)
    for parameter in [*encoder.parameters(), *adapters.parameters()]:
        parameter.data = (parameter.data + 0.02).half().float()
    encoder.sync_model()
    vocabulary = made.preprocessor.vocabulary
    export(tmp_path, encoder, adapters.tensors(), adapters, vocabulary)
    other = student(layers=2)
    following = other.lookup(leave_out=3)
    load_encoder(tmp_path, following)
    assert same(following.parameter_groups()[0], encoder.parameter_groups()[0])
    for name in ("weight", "bias", "blank", "log_tau"):
        assert torch.equal(getattr(following.units, name), getattr(encoder.units, name))
    # The units are others; those that both have are as they were.
    kept = [vocabulary.index(token) for token in following.vocabulary]
    assert len(kept) == len(vocabulary) - 3
    assert torch.equal(following.units.threshold, encoder.units.threshold[kept])
    assert torch.equal(following.layer.fc1.weight, encoder.layer.fc1.weight[kept])


def test_a_clip_is_augmented_only_when_asked(tiny_student: Student) -> None:
    preprocessor, clip = tiny_student.preprocessor, clips()[0]
    plain = preprocessor.features(clip, None)
    assert torch.equal(plain, preprocessor.features(clip, None))
    varied = preprocessor.features(clip, random.Random(0))
    assert varied.shape != plain.shape or not torch.equal(varied, plain)
    ids = [
        preprocessor.vocabulary[place - 1]
        for place in preprocessor.tokens("a door").tolist()
    ]
    assert tiny_student.tokenizer.decode(ids) == "a door"


def test_what_was_refused_is_not_learnt_from_speech() -> None:
    made = student(layers=1)
    text_model = AdaptedTextModel(made.model, made.tokenizer)

    def example(answer: str, instruction: str = "Answer the caller.") -> Example:
        words = tuple(made.tokenizer(answer, add_special_tokens=False)["input_ids"])
        return Example(text="Weigh it.", instruction=instruction, answer=words)

    answered, refused = example("Put it on a scale."), example(REFUSAL)
    told = example(REFUSAL, instruction=f"Say this: {REFUSAL}")
    kept = train_module._without_refusals(text_model, [answered, refused, told])
    assert kept == [answered, told]
