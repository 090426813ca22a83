"""Training of stage 4: agreement with the transcript model up, hearing kept.

The adapters learn first from hearing as it is (`reading`), then both learn together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import (
    INSTRUCTIONS,
    TRANSCRIBE,
    AdaptedTextModel,
    Example,
    agreement,
    answer,
    distance,
    divergence,
)
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.features import collate
from sarguard.reference.training.hearing import SpeechEncoder, word_error_rate
from sarguard.reference.training.lookup import LookupEncoder
from sarguard.reference.training.stage import (
    HearingWeights,
    TimeBudget,
    autocast,
    train_stage,
)
from sarguard.reference.training.train_hearing import Preprocessor, lookup_loss

BATCH = 12
TRANSCRIPTS = 8
"""Sentences to write down, beside the others of a batch."""
TRANSCRIPT_WEIGHT = 0.5
ANSWER_TOKENS = 24
TRANSCRIPT_TOKENS = 40
"""Most tokens of a transcript that is measured."""
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
    """Stage 4: the adapters learn to continue from audio as from its transcript."""

    def __init__(
        self,
        encoder: LookupEncoder,
        text_model: AdaptedTextModel,
        adapters: Adapters,
        preprocessor: Preprocessor,
        budget: TimeBudget,
        checkpoint: Path,
        *,
        hears: bool = True,
    ) -> None:
        """Prepare the stage, or take it up where its checkpoint was.

        Args:
            encoder: What hears.
            text_model: What answers.
            adapters: The text model's adapters.
            preprocessor: What turns clips into features and texts into classes.
            budget: How long to train.
            checkpoint: Where to keep it.
            hears: Whether the encoder learns as well.
        """
        self.lookup, self.text_model = encoder, text_model
        self.adapters, self.preprocessor = adapters, preprocessor
        self._hears = hears
        groups = [[*adapters.parameters()]]
        groups += encoder.parameter_groups() if hears else []
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
        """Make one step.

        Args:
            batch: Examples, those to write down behind the others.
            features: Log-mel features of their clips, (batch, mels, steps).
            lengths: Steps of each that are real, (batch,).

        Returns:
            Divergence and distance from the teacher, the transcripts' cross-entropy
            and the CTC loss, in nats a token, and the agreement.
        """
        text_model, device = self.text_model, self.text_model.device
        self.set_rates(RATES[: len(self.optimizer.param_groups)])
        answered = [example for example in batch if not example.transcript]
        with autocast(device):
            frames, hearing, ctc = self._hear(batch, features.to(device), lengths)
            student = text_model.student_output(batch, frames)
            positions = sum(len(example.answer) for example in answered)
            asked, teacher = (
                student.first(positions),
                text_model.teacher_output(answered),
            )
            kl, gap = divergence(asked, teacher), distance(asked, teacher)
            words = torch.tensor(
                [t for x in batch if x.transcript for t in x.answer], device=device
            )
            written = F.cross_entropy(student.logits[positions:].float(), words)
            loss = kl + STATE_WEIGHT * gap + TRANSCRIPT_WEIGHT * written + hearing
        self.update(loss)
        same, of = agreement(asked, teacher)
        return [*(float(part.detach()) for part in (kl, gap, written, ctc)), same / of]

    def _hear(
        self, batch: Sequence[Example], features: Tensor, lengths: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return each clip's frames, the weighted loss of hearing, and its CTC loss."""
        if not self._hears:
            with torch.no_grad():
                frames, counts = self.lookup.encode(features, lengths)
            nothing = torch.zeros((), device=features.device)
            return _heard(frames, counts), nothing, nothing
        said = [self.preprocessor.tokens(example.text) for example in batch]
        heard = self.lookup.training_output(features, lengths, said)
        loss = HEARING_WEIGHT * lookup_loss(heard)
        return _heard(heard.frames, heard.counts), loss, heard.ctc


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
    texts = sorted(clips)

    def learn() -> list[float]:
        batch = rng.sample(examples, BATCH)
        batch += [
            transcript(stage.text_model, text, rng.choice(TRANSCRIBE))
            for text in rng.sample(texts, TRANSCRIPTS)
        ]
        spoken = [rng.choice(clips[example.text]) for example in batch]
        features, lengths = collate([preprocessor.features(c, rng) for c in spoken])
        return stage.learn(batch, features, lengths)

    train_stage(
        stage,
        learn,
        ("KL", "states", "transcripts", "CTC", "agreement"),
        evaluate=evaluate,
        report=report,
        save_seconds=SAVE_SECONDS,
        report_steps=10,
    )


def transcript(text_model: AdaptedTextModel, text: str, instruction: str) -> Example:
    """Return an example whose answer is what was said."""
    words = (*text_model.tokens(text), int(text_model.tokenizer.eos_token_id))
    return Example(text=text, instruction=instruction, answer=words, transcript=True)


@torch.no_grad()
def written_down(
    encoder: SpeechEncoder,
    text_model: AdaptedTextModel,
    preprocessor: Preprocessor,
    clips: Sequence[Clip],
) -> tuple[float, list[str]]:
    """Return the word error rate of the model's own transcripts, and these."""
    texts: list[str] = []
    for start in range(0, len(clips), BATCH):
        features, lengths = collate(
            [preprocessor.features(clip, None) for clip in clips[start : start + BATCH]]
        )
        with autocast(text_model.device):
            frames, counts = encoder.encode(features.to(text_model.device), lengths)
            prompts = [
                text_model.audio_prompt(row, TRANSCRIBE[0])
                for row in _heard(frames, counts)
            ]
            words = answer(
                text_model,
                prompts,
                length=TRANSCRIPT_TOKENS,
                temperature=0.0,
                adapted=True,
            )
        rows = [list(row) for row in words]
        texts += text_model.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return word_error_rate([clip.text for clip in clips], texts), texts


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
