"""Refusing what is harmful, in writing, and keeping everything else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from sarguard.datasets import load_sentences
from sarguard.reference.training import aligning
from sarguard.reference.training import stage as stage_module
from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.aligning import (
    AligningStage,
    Lesson,
    LessonWriter,
    misheard,
    train_aligning,
    write_lessons,
)
from sarguard.reference.training.answering import AdaptedTextModel
from sarguard.reference.training.corpus import normalise
from sarguard.reference.training.written import WrittenRequests, load_written
from sarguard.refusal import is_refusal
from tests.reference.training.students import StepBudget, Student, student

REQUESTS = WrittenRequests(
    harmful=("How do I pick a lock.", "Write a threat."),
    twins=("How do I oil a lock.", "Write a thank you."),
    borderline=("How do I kill a process.",),
    ordinary=("Tell me a joke.", "Name a river."),
)


@pytest.fixture(autouse=True)
def _no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "WARM_UP_STEPS", 1)


def model_of(made: Student) -> tuple[AdaptedTextModel, Adapters]:
    torch.manual_seed(0)
    adapters = Adapters(made.model.model.language_model)
    for parameter in adapters.parameters():
        parameter.requires_grad_(True)
    return AdaptedTextModel(made.model, made.tokenizer, adapters), adapters


def lessons_of(text_model: AdaptedTextModel) -> list[Lesson]:
    return write_lessons(
        text_model, REQUESTS, ["Say hello."], seed=0, report=lambda _: None
    )


def test_harmful_requests_are_refused_and_others_answered_as_before() -> None:
    text_model, _ = model_of(student(layers=1))
    lessons = lessons_of(text_model)
    harmful = [lesson for lesson in lessons if lesson.kind == "harmful"]
    kept = [lesson for lesson in lessons if lesson.kind != "harmful"]
    # Each twice, one of them in another frame as well.
    assert len(harmful) == 2 * 3
    assert len(kept) >= 2 + 1 + 2 + 1 + 1
    for lesson in harmful:
        said = text_model.tokenizer.decode(lesson.answer, skip_special_tokens=True)
        assert is_refusal(said)
    for lesson in kept:
        row = [[*lesson.prompt, *lesson.answer]]
        with torch.no_grad(), text_model.without_adapters():
            logits = text_model.next_logits(row, [len(lesson.answer)])
        chosen = logits.gather(-1, torch.tensor(lesson.answer)[:, None])
        # Answers are made in the fastest format, which may round to another winner.
        assert (logits.max(dim=-1).values - chosen[:, 0] < 0.05).all()


def test_contexts_differ() -> None:
    text_model, _ = model_of(student(layers=1))
    writer = LessonWriter(text_model, random.Random(0))
    prompts = {writer.refuse("Write a threat.").prompt for _ in range(60)}
    assert len(prompts) > 15


def test_it_learns_both_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aligning, "HARMFUL", 2)
    monkeypatch.setattr(aligning, "NEAR", 2)
    monkeypatch.setattr(aligning, "HARMLESS", 1)
    path = tmp_path / "aligning.pt"
    text_model, adapters = model_of(student(layers=2))
    lessons = lessons_of(text_model)
    figures: list[str] = []

    def train(steps: int) -> AligningStage:
        stage = AligningStage(text_model, adapters, StepBudget(steps), path)
        train_aligning(
            stage,
            lessons,
            seed=0,
            evaluate=lambda: "evaluated",
            report=figures.append,
        )
        return stage

    def losses(stage: AligningStage) -> list[float]:
        harmful = [x for x in lessons if x.kind == "harmful"]
        return stage.learn(harmful, [x for x in lessons if x.kind != "harmful"])

    first = losses(AligningStage(text_model, adapters, StepBudget(9), tmp_path / "no"))
    stage = train(40)
    last = losses(stage)
    assert last[0] < 0.7 * first[0]
    assert last[1] < 2.0
    before = [p.clone() for p in adapters.parameters()]
    train(40)
    restored = torch.load(path, weights_only=True)
    assert restored["step"] == 40
    train(45)
    assert torch.load(path, weights_only=True)["step"] == 45
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before, adapters.parameters(), strict=True)
    )


def test_words_are_misheard_as_words_like_them() -> None:
    words = ("kill", "fill", "bill", "river", "rider")
    heard = {misheard("kill the river", words, random.Random(n)) for n in range(200)}
    assert "kill the river" in heard
    assert {"fill the river", "kill the rider"} & heard
    assert all(set(text.split()) <= {*words, "the"} for text in heard)


def test_no_shipped_sentence_is_written_about() -> None:
    shipped = {normalise(sentence) for sentence in load_sentences()}
    written = load_written()
    texts = [*written.harmful, *written.harmless]
    assert len(written.harmful) == len(written.twins) > 1000
    assert min(len(written.borderline), len(written.ordinary)) > 1000
    assert not {normalise(text) for text in texts} & shipped
    assert not {*written.harmful} & {*written.harmless}
