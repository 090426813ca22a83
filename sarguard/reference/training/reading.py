"""Stage 4, reading: the adapters learn to read what the lookup makes of speech.

The lookup's output is known without hearing anything: a unit's embedding for a frame or
two, spaces between. So frames are made up from the text, many for the price of one that
is encoded, and rare words, which come in several units, are read as the words they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import (
    AdaptedTextModel,
    Example,
    agreement,
    distance,
    divergence,
)
from sarguard.reference.training.spelling import Spelling
from sarguard.reference.training.stage import (
    Stage,
    TimeBudget,
    autocast,
    train_stage,
)

BATCH = 24
RATE = 6e-4
SAVE_SECONDS = 300.0
_NOISE = 0.35
"""Length of the noise on a frame relative to it: heard frames have a cosine of about
0.9 to their token's embedding."""
_SPACES = (0, 0, 1, 1, 2, 3, 4)
_PAUSE_SHARE = 0.05
_LOST_SHARE = 0.01


def made_up_frames(
    units: Tensor, space: Tensor, rng: random.Random, generator: torch.Generator
) -> Tensor:
    """Return frames as the lookup would make them of speech.

    Args:
        units: The embedding of each unit that is said, (units, width).
        space: The embedding of a space, (width,).
        rng: Draws how long each is.
        generator: Draws noise.
    """
    rows = [space] * rng.randint(1, 10)
    for unit in units:
        if rng.random() >= _LOST_SHARE:
            rows += [unit] * rng.choice((1, 1, 2))
        rows += [space] * rng.choice(_SPACES)
        if rng.random() < _PAUSE_SHARE:
            rows += [space] * rng.randint(3, 12)
    rows += [space] * rng.randint(1, 10)
    frames = torch.stack(rows)
    noise = torch.randn(frames.shape, generator=generator).to(frames)
    length = frames.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    said = (frames != space).any(dim=1, keepdim=True)
    noisy: Tensor = frames + _NOISE * said * length * noise
    return noisy


class ReadingStage(Stage):
    """Stage 4: adapters learn to continue from made-up frames as from a transcript."""

    def __init__(
        self,
        text_model: AdaptedTextModel,
        adapters: Adapters,
        spelling: Spelling,
        budget: TimeBudget,
        checkpoint: Path,
        *,
        space: int,
        seed: int,
    ) -> None:
        self.text_model, self.adapters = text_model, adapters
        self._spelling, self._space = spelling, space
        optimizer = torch.optim.AdamW(
            [{"params": [*adapters.parameters()]}], weight_decay=0.0
        )
        super().__init__(optimizer, budget, checkpoint)
        self.restore()
        self._rng = random.Random(seed + self.step)
        self._generator = torch.Generator().manual_seed(seed + self.step)

    def weights(self) -> dict[str, Any]:
        """Return the weights to keep, by name."""
        return {"adapters": self.adapters.tensors()}

    def load_weights(self, state: dict[str, Any]) -> None:
        """Take the weights back from what `weights` returned."""
        self.adapters.load(state["adapters"])

    def frames(self, text: str) -> Tensor:
        """Return frames of a sentence, (frames, width)."""
        embed = self.text_model.embed.weight.detach().float()
        units = self._spelling.spell(self.text_model.tokens(text))
        return made_up_frames(
            embed[units], embed[self._space], self._rng, self._generator
        )

    def learn(self, batch: Sequence[Example]) -> list[float]:
        """Make one step; return its divergence, distance and agreement."""
        self.set_rates((RATE,))
        with autocast(self.text_model.device):
            student = self.text_model.student_output(
                batch, [self.frames(example.text) for example in batch]
            )
            teacher = self.text_model.teacher_output(batch)
            apart, gap = divergence(student, teacher), distance(student, teacher)
        self.update(apart + gap)
        same, of = agreement(student, teacher)
        return [float(apart.detach()), float(gap.detach()), same / of]


def train_reading(
    stage: ReadingStage,
    examples: Sequence[Example],
    *,
    seed: int,
    evaluate: Callable[[], str],
    report: Callable[[str], None],
) -> None:
    """Train a stage until its budget is spent.

    Args:
        stage: What is trained, in place, and its budget.
        examples: What is said, and what the text model answers to it.
        seed: Seed of the batches.
        evaluate: Called after each checkpoint; returns a line to report.
        report: Called with lines of progress.
    """
    rng = random.Random(seed + stage.step)
    train_stage(
        stage,
        lambda: stage.learn(rng.sample(examples, BATCH)),
        ("KL", "states", "agreement"),
        evaluate=evaluate,
        report=report,
        save_seconds=SAVE_SECONDS,
    )
