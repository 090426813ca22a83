"""Frames that are made up from text, as the lookup would make them of speech."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from sarguard.reference.training import reading
from sarguard.reference.training import stage as stage_module
from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import AdaptedTextModel, Example
from sarguard.reference.training.reading import (
    ReadingStage,
    made_up_frames,
    train_reading,
)
from tests.reference.training.students import SENTENCES, StepBudget, student

ANSWERS = ((40, 41, 42), (9, 80), (33, 34, 35, 36), (60,))


def test_units_come_in_order_with_spaces_between() -> None:
    torch.manual_seed(0)
    units, space = torch.randn(5, 64), torch.randn(64)
    alike = []
    for seed in range(40):
        frames = made_up_frames(
            units, space, random.Random(seed), torch.Generator().manual_seed(seed)
        )
        known = torch.cat([space[None], units])
        nearest = torch.cdist(frames, known).argmin(dim=1)
        said = [int(n) - 1 for n in torch.unique_consecutive(nearest) if n]
        # Now and then one is lost.
        assert said == sorted(said)
        assert len(said) >= 4
        assert torch.equal(frames[0], space)
        spoken = nearest > 0
        alike.append(
            torch.cosine_similarity(frames[spoken], known[nearest[spoken]]).mean()
        )
    assert 0.9 < float(torch.stack(alike).mean()) < 0.99


def test_reading_learns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(reading, "BATCH", len(SENTENCES))
    made, path = student(), tmp_path / "reading.pt"
    torch.manual_seed(0)
    adapters = Adapters(made.model.model.language_model)
    for parameter in adapters.parameters():
        parameter.requires_grad_(True)
    text_model = AdaptedTextModel(made.model, made.tokenizer, adapters)
    examples = [
        Example(text=text, instruction="", answer=answer)
        for text, answer in zip(SENTENCES, ANSWERS, strict=True)
    ]

    def stage(steps: int) -> ReadingStage:
        return ReadingStage(
            text_model,
            adapters,
            made.preprocessor.spelling,
            StepBudget(steps),
            path,
            space=made.space,
            seed=0,
        )

    def train(steps: int) -> ReadingStage:
        begun = stage(steps)
        train_reading(
            begun,
            examples,
            seed=0,
            evaluate=lambda: "evaluated",
            report=lambda _: None,
        )
        return begun

    before = sum(stage(1).learn(examples)[:2])
    after = sum(train(12).learn(examples)[:2])
    assert after < 0.95 * before
    train(12)
    assert torch.load(path, weights_only=True)["step"] == 12
