"""Training of stages 1 and 2, from clips and what they say."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

from sarguard.reference.training.clips import Clip
from sarguard.reference.training.features import (
    augment_waveform,
    collate,
    log_mel,
    mask,
)
from sarguard.reference.training.hearing import (
    SpeechEncoder,
    transcribe,
    word_error_rate,
)
from sarguard.reference.training.lookup import LookupEncoder, LookupOutput
from sarguard.reference.training.spelling import Spelling
from sarguard.reference.training.stage import (
    HearingWeights,
    TimeBudget,
    autocast,
    prefetch,
    train_stage,
)

BATCH_SECONDS = 64.0
TOWER_RATE = 3e-4
HEAD_RATE = 1e-3
SAVE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Preprocessor:
    """Conversion of clips to features, and of texts to CTC classes."""

    extractor: WhisperFeatureExtractor
    tokenizer: PreTrainedTokenizerBase
    vocabulary: tuple[int, ...]
    """Token ids that the CTC head knows; class 0 is the blank."""

    def tokens(self, text: str) -> Tensor:
        """Return the sentence as classes of the CTC head.

        Raises:
            ValueError: It holds a character that has no unit.
        """
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([self._classes[unit] for unit in self.spelling.spell(ids)])

    def sayable(self, clips: Sequence[Clip]) -> list[Clip]:
        """Return the clips whose every character has a unit."""
        texts = sorted({clip.text for clip in clips})
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        known = {
            text
            for text, row in zip(texts, rows, strict=True)
            if self.spelling.can_spell(row)
        }
        return [clip for clip in clips if clip.text in known]

    @cached_property
    def spelling(self) -> Spelling:
        """Return what spells tokens that have no class of their own."""
        return Spelling(self.tokenizer, self.vocabulary)

    @cached_property
    def _classes(self) -> dict[int, int]:
        return {token: place + 1 for place, token in enumerate(self.vocabulary)}

    def features(self, clip: Clip, rng: random.Random | None) -> Tensor:
        """Return log-mel features, varied when ``rng`` is given."""
        if rng is None:
            return log_mel(clip.samples.astype("float32") / 32768, self.extractor)
        return mask(log_mel(augment_waveform(clip.samples, rng), self.extractor), rng)


def batches(clips: Sequence[Clip], rng: random.Random) -> Iterator[list[Clip]]:
    """Yield one shuffled pass of batches of similar length, 64 s of speech each."""
    order = sorted(clips, key=lambda clip: clip.seconds + rng.random() * 0.5)
    groups: list[list[Clip]] = [[]]
    for clip in order:
        if groups[-1] and (len(groups[-1]) + 1) * clip.seconds > BATCH_SECONDS:
            groups.append([])
        groups[-1].append(clip)
    rng.shuffle(groups)
    yield from groups


class ClipStage(HearingWeights):
    """A stage that learns from clips and what they say."""

    figures: ClassVar[tuple[str, ...]]
    """What `learn` returns."""

    @abstractmethod
    def learn(
        self, features: Tensor, lengths: Tensor, said: Sequence[Tensor]
    ) -> list[float]:
        """Make one step on a batch and return its figures."""


def train_on_clips(
    stage: ClipStage,
    preprocessor: Preprocessor,
    clips: Sequence[Clip],
    *,
    seed: int,
    evaluate: Callable[[], str],
    report: Callable[[str], None],
) -> None:
    """Train a stage until its budget is spent.

    Args:
        stage: What is trained, in place, and its budget.
        preprocessor: What turns the clips into features and classes.
        clips: The clips to train on; each says only tokens that have a class.
        seed: Seed of the batches and of how clips are varied.
        evaluate: Called after each checkpoint; returns a line to report.
        report: Called with lines of progress.
    """
    rng = random.Random(seed)

    def prepare(batch: list[Clip]) -> tuple[Tensor, Tensor, list[Tensor]]:
        found = collate([preprocessor.features(clip, rng) for clip in batch])
        return (*found, [preprocessor.tokens(clip.text) for clip in batch])

    def passes() -> Generator[tuple[Tensor, Tensor, list[Tensor]]]:
        while True:
            yield from prefetch(prepare, batches(clips, rng))

    # Closed at the end: the thread that prepares the next batch ends with it.
    with closing(passes()) as prepared:
        train_stage(
            stage,
            lambda: stage.learn(*next(prepared)),
            stage.figures,
            evaluate=evaluate,
            report=report,
            save_seconds=SAVE_SECONDS,
        )


class HearingStage(ClipStage):
    """Stage 1: the tower and the projector learn from transcripts alone."""

    figures = ("loss",)

    def __init__(
        self, encoder: SpeechEncoder, budget: TimeBudget, checkpoint: Path
    ) -> None:
        tower = [p for p in encoder.tower.parameters() if p.requires_grad]
        head = [*encoder.projector.parameters(), encoder.blank, encoder.log_tau]
        optimizer = torch.optim.AdamW(
            [{"params": tower, "lr": TOWER_RATE}, {"params": head, "lr": HEAD_RATE}],
            betas=(0.9, 0.98),
            weight_decay=0.01,
        )
        super().__init__(encoder, optimizer, budget, checkpoint)
        self.restore()

    def learn(
        self, features: Tensor, lengths: Tensor, said: Sequence[Tensor]
    ) -> list[float]:
        """Make one step on a batch and return its loss."""
        self.set_rates((TOWER_RATE, HEAD_RATE))
        device = self.encoder.blank.device
        with autocast(device):
            frames, counts = self.encoder.encode(features.to(device), lengths)
            loss = self.encoder.loss(frames, counts, said)
        self.update(loss)
        return [float(loss.detach())]


@torch.no_grad()
def heard(
    encoder: SpeechEncoder, preprocessor: Preprocessor, clips: Sequence[Clip]
) -> tuple[float, list[str]]:
    """Return the word error rate over the clips and what was heard in each."""
    texts: list[str] = []
    for start in range(0, len(clips), 16):
        batch = clips[start : start + 16]
        features, lengths = collate(
            [preprocessor.features(clip, None) for clip in batch]
        )
        frames, counts = encoder.encode(features.to(encoder.blank.device), lengths)
        texts += transcribe(
            encoder.scores(frames),
            counts,
            preprocessor.vocabulary,
            preprocessor.tokenizer,
        )
    return word_error_rate([clip.text for clip in clips], texts), texts


RATES = (3e-5, 1e-4, 3e-4)
"""Learning rates of the tower, of what its units share and of what each has alone."""
GAP_WEIGHT = 6.0
LOOKED_UP = 0.25
"""Share of each batch that is looked up: that costs as much as encoding it."""


class LookupStage(ClipStage):
    """Stage 2: the units learn to be confident, and silent where nothing is said."""

    figures = ("CTC", "gap")

    def __init__(
        self, lookup: LookupEncoder, budget: TimeBudget, checkpoint: Path
    ) -> None:
        self.lookup = lookup
        groups = [{"params": group} for group in lookup.parameter_groups()]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0)
        super().__init__(lookup, optimizer, budget, checkpoint)
        self.restore()

    def learn(
        self, features: Tensor, lengths: Tensor, said: Sequence[Tensor]
    ) -> list[float]:
        """Make one step on a batch; return its CTC loss and its gap."""
        self.set_rates(RATES)
        device = self.lookup.blank.device
        some = torch.randperm(len(said))[: max(1, round(LOOKED_UP * len(said)))]
        with autocast(device):
            heard = self.lookup.training_output(
                features.to(device), lengths, said, rows=some
            )
            loss = lookup_loss(heard)
        self.update(loss)
        return [float(heard.ctc.detach()), float(heard.gap.detach())]


def lookup_loss(heard: LookupOutput) -> Tensor:
    """Return the loss on the lookup's output, in this stage and in answering."""
    return heard.ctc + GAP_WEIGHT * heard.gap
