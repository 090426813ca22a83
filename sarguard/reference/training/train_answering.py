"""Training of stage 3: agreement with the transcript model up, hearing kept."""

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
    AdaptedTextModel,
    Example,
    agreement,
    answer,
    distance,
    divergence,
)
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.features import collate
from sarguard.reference.training.hearing import SpeechEncoder
from sarguard.reference.training.lookup import LookupEncoder
from sarguard.reference.training.stage import (
    HearingWeights,
    TimeBudget,
    autocast,
    train_stage,
)
from sarguard.reference.training.train_hearing import Preprocessor, lookup_loss

BATCH = 12
ANSWER_TOKENS = 24
RATES = (6e-4, 3e-5, 1e-4, 3e-4)
"""Learning rates of the adapters, the tower, what its units share and have alone."""
STATE_WEIGHT = 1.0
HEARING_WEIGHT = 0.3
SAVE_SECONDS = 400.0


def generate_examples(
    text_model: AdaptedTextModel,
    texts: Sequence[str],
    *,
    seed: int,
    greedy: bool,
    report: Callable[[str], None],
) -> list[Example]:
    """Return one example a text, answered by the text model without adapters.

    Every other answer is sampled at temperature 0.8, unless ``greedy``.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    order = [(text, rng.choice(INSTRUCTIONS)) for text in texts]
    order.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    examples: list[Example] = []
    for number, start in enumerate(range(0, len(order), 64)):
        rows = order[start : start + 64]
        prompts = [text_model.transcript_prompt(*row) for row in rows]
        warmth = 0.0 if greedy or number % 2 == 0 else 0.8
        answers = answer(text_model, prompts, length=ANSWER_TOKENS, temperature=warmth)
        examples += [
            Example(text=text, instruction=instruction, answer=found)
            for (text, instruction), found in zip(rows, answers, strict=True)
        ]
        report(f"answers {len(examples)}/{len(order)}")
    rng.shuffle(examples)
    return examples


class AnsweringStage(HearingWeights):
    """Stage 3: the adapters learn to continue from audio as from its transcript."""

    def __init__(
        self,
        encoder: LookupEncoder,
        text_model: AdaptedTextModel,
        adapters: Adapters,
        preprocessor: Preprocessor,
        budget: TimeBudget,
        checkpoint: Path,
    ) -> None:
        self.lookup, self.text_model = encoder, text_model
        self.adapters, self.preprocessor = adapters, preprocessor
        groups = [[*adapters.parameters()], *encoder.parameter_groups()]
        optimizer = torch.optim.AdamW(
            [{"params": group} for group in groups], weight_decay=0.0
        )
        super().__init__(encoder, optimizer, budget, checkpoint)
        self.restore()

    def weights(self) -> dict[str, Any]:
        """Return the weights to keep, by name."""
        return {**super().weights(), "adapters": self.adapters.tensors()}

    def load_weights(self, state: dict[str, Any]) -> None:
        """Take the weights back from what `weights` returned."""
        super().load_weights(state)
        self.adapters.load(state["adapters"])

    def learn(
        self, batch: Sequence[Example], features: Tensor, lengths: Tensor
    ) -> list[float]:
        """Make one step; return its divergence, distance, CTC loss and agreement."""
        text_model, device = self.text_model, self.text_model.device
        self.set_rates(RATES)
        said = [self.preprocessor.tokens(example.text) for example in batch]
        with autocast(device):
            heard = self.lookup.training_output(features.to(device), lengths, said)
            student = text_model.student_output(
                batch, _heard(heard.frames, heard.counts)
            )
            teacher = text_model.teacher_output(batch)
            kl, gap = divergence(student, teacher), distance(student, teacher)
            loss = kl + STATE_WEIGHT * gap + HEARING_WEIGHT * lookup_loss(heard)
        self.update(loss)
        same, of = agreement(student, teacher)
        return [*(float(part.detach()) for part in (kl, gap, heard.ctc)), same / of]


def train_answering(
    stage: AnsweringStage,
    examples: Sequence[Example],
    clips: Mapping[str, Sequence[Clip]],
    *,
    seed: int,
    evaluate: Callable[[], str],
    report: Callable[[str], None],
) -> None:
    """Train a stage until its budget is spent.

    Args:
        stage: What is trained, in place, and its budget.
        examples: What to answer, by the text of what is said.
        clips: Every clip of each example's text.
        seed: Seed of the batches and of how clips are varied.
        evaluate: Called after each checkpoint; returns a line to report.
        report: Called with lines of progress.
    """
    rng = random.Random(seed)
    preprocessor = stage.preprocessor

    def learn() -> list[float]:
        batch = rng.sample(examples, BATCH)
        spoken = [rng.choice(clips[example.text]) for example in batch]
        features, lengths = collate([preprocessor.features(c, rng) for c in spoken])
        return stage.learn(batch, features, lengths)

    train_stage(
        stage,
        learn,
        ("KL", "states", "CTC", "agreement"),
        evaluate=evaluate,
        report=report,
        save_seconds=SAVE_SECONDS,
        report_steps=10,
    )


@torch.no_grad()
def measure_agreement(
    encoder: SpeechEncoder,
    text_model: AdaptedTextModel,
    preprocessor: Preprocessor,
    examples: Sequence[Example],
    clips: Mapping[str, Clip],
) -> float:
    """Return the teacher-forced top-1 agreement on the examples' clips."""
    same = total = 0
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        features, lengths = collate(
            [preprocessor.features(clips[x.text], None) for x in batch]
        )
        with autocast(text_model.device):
            frames, counts = encoder.encode(features.to(text_model.device), lengths)
            student = text_model.student_output(batch, _heard(frames, counts))
            found = agreement(student, text_model.teacher_output(batch))
        same, total = same + found[0], total + found[1]
    return same / total


def _heard(frames: Tensor, counts: Tensor) -> list[Tensor]:
    """Return each row's real frames."""
    return [row[:count] for row, count in zip(frames, counts, strict=True)]
