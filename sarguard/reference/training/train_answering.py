"""Train stage 2: agreement with the text-reading model up, hearing kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import (
    INSTRUCTIONS,
    Lesson,
    Reader,
    agreement,
    answer,
    distance,
    divergence,
)
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.features import collate
from sarguard.reference.training.hearing import Hearing
from sarguard.reference.training.lookup import Lookup
from sarguard.reference.training.stage import (
    Clock,
    Smoothed,
    Stage,
    autocast,
    set_rates,
)
from sarguard.reference.training.train_hearing import Ears, hearing_loss

BATCH = 12
ANSWER_TOKENS = 24
RATES = (6e-4, 3e-5, 1e-4, 3e-4)
"""Learning rates of the adapters, the tower, what its units share and have alone."""
STATE_WEIGHT = 1.0
HEARING_WEIGHT = 0.3
SAVE_SECONDS = 400.0


def write_lessons(
    reader: Reader,
    texts: Sequence[str],
    *,
    seed: int,
    greedy: bool,
    report: Callable[[str], None],
) -> list[Lesson]:
    """Return one lesson a text, answered by the untouched text model.

    Every other answer is sampled at temperature 0.8, unless ``greedy``.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    order = [(text, rng.choice(INSTRUCTIONS)) for text in texts]
    order.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    lessons: list[Lesson] = []
    for number, start in enumerate(range(0, len(order), 64)):
        rows = order[start : start + 64]
        prompts = [reader.transcript_prompt(*row) for row in rows]
        warmth = 0.0 if greedy or number % 2 == 0 else 0.8
        answers = answer(reader, prompts, length=ANSWER_TOKENS, temperature=warmth)
        lessons += [
            Lesson(text=text, instruction=instruction, answer=found)
            for (text, instruction), found in zip(rows, answers, strict=True)
        ]
        report(f"answers {len(lessons)}/{len(order)}")
    rng.shuffle(lessons)
    return lessons


def train_answering(
    hearing: Lookup,
    reader: Reader,
    adapters: Adapters,
    ears: Ears,
    lessons: Sequence[Lesson],
    clips: Mapping[str, Sequence[Clip]],
    *,
    clock: Clock,
    seed: int,
    checkpoint: Path,
    evaluate: Callable[[], str],
    report: Callable[[str], None],
) -> None:
    """Train adapters, tower and lookup until the clock runs out.

    Args:
        hearing: The audio side, trained on in place.
        reader: The text model with the adapters.
        adapters: What the text model learns, in place.
        ears: What turns clips into features and classes.
        lessons: What to answer, by the text of what is said.
        clips: Every clip of each lesson's text.
        clock: The budget of seconds, earlier runs included.
        seed: Seed of the batches and of how clips are varied.
        checkpoint: Where the stage goes on from, and is kept every few minutes.
        evaluate: Called after each checkpoint; returns a line to report.
        report: Called with lines of progress.
    """
    rng = random.Random(seed)
    stage = AnsweringStage(hearing, reader, adapters, ears, clock, checkpoint)
    smoothed = Smoothed()
    while not clock.over():
        batch = rng.sample(lessons, BATCH)
        spoken = [rng.choice(clips[lesson.text]) for lesson in batch]
        features, lengths = collate([ears.features(clip, rng) for clip in spoken])
        figures = smoothed.add(stage.learn(batch, features, lengths))
        if stage.step % 10 == 0:
            kl, gap, ctc, agree = figures
            report(
                f"step {stage.step} {clock.seconds():.0f} s KL {kl:.3f} "
                f"states {gap:.3f} CTC {ctc:.3f} agreement {agree:.3f}"
            )
        stage.keep(evaluate, report, every=SAVE_SECONDS)
    stage.keep(evaluate, report)


class AnsweringStage(Stage):
    """Stage 2: the adapters learn to go on from audio as from its transcript."""

    def __init__(
        self,
        hearing: Lookup,
        reader: Reader,
        adapters: Adapters,
        ears: Ears,
        clock: Clock,
        checkpoint: Path,
    ) -> None:
        self.reader, self.adapters, self.ears = reader, adapters, ears
        self.lookup = hearing
        groups = [
            list(adapters.parameters()),
            list(hearing.body()),
            list(hearing.shared()),
            list(hearing.single()),
        ]
        optimizer = torch.optim.AdamW(
            [{"params": group} for group in groups], weight_decay=0.0
        )
        super().__init__(hearing, optimizer, clock, checkpoint)
        self.restore()

    def parts(self) -> dict[str, Any]:
        """Return the weights to keep, by name."""
        return {**super().parts(), "adapters": self.adapters.tensors()}

    def load_parts(self, state: dict[str, Any]) -> None:
        """Take the weights back from what `parts` returned."""
        super().load_parts(state)
        self.adapters.load(state["adapters"])

    def learn(
        self, batch: Sequence[Lesson], features: Tensor, lengths: Tensor
    ) -> list[float]:
        """Make one step; return its divergence, distance, CTC loss and agreement."""
        reader, device = self.reader, self.reader.device
        set_rates(self.optimizer, RATES, step=self.step, part=self.clock.part())
        said = [self.ears.tokens(lesson.text) for lesson in batch]
        with autocast(device):
            heard = self.lookup.listen(features.to(device), lengths, said)
            student = reader.listen(batch, _heard(heard.frames, heard.counts))
            teacher = reader.teach(batch)
            kl, gap = divergence(student, teacher), distance(student, teacher)
            loss = kl + STATE_WEIGHT * gap + HEARING_WEIGHT * hearing_loss(heard)
        self.descend(loss)
        same, of = agreement(student, teacher)
        return [*(float(part.detach()) for part in (kl, gap, heard.ctc)), same / of]


@torch.no_grad()
def agreed(
    hearing: Hearing,
    reader: Reader,
    ears: Ears,
    lessons: Sequence[Lesson],
    clips: Mapping[str, Clip],
) -> float:
    """Return the teacher-forced top-1 agreement on the lessons' clips."""
    same = total = 0
    for start in range(0, len(lessons), BATCH):
        batch = lessons[start : start + BATCH]
        features, lengths = collate([ears.features(clips[x.text], None) for x in batch])
        with autocast(reader.device):
            frames, counts = hearing.encode(features.to(reader.device), lengths)
            student = reader.listen(batch, _heard(frames, counts))
            found = agreement(student, reader.teach(batch))
        same, total = same + found[0], total + found[1]
    return same / total


def _heard(frames: Tensor, counts: Tensor) -> list[Tensor]:
    """Return each row's real frames."""
    return [row[:count] for row, count in zip(frames, counts, strict=True)]
