"""Train stage 2: the lookup says embeddings closer to those of what was said."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sarguard.reference.training.clips import Clip
from sarguard.reference.training.features import collate
from sarguard.reference.training.lookup import Heard, Lookup
from sarguard.reference.training.precision import autocast
from sarguard.reference.training.prefetch import prefetch
from sarguard.reference.training.schedule import Clock, set_rates
from sarguard.reference.training.stage import Smoothed, Stage
from sarguard.reference.training.train_hearing import SAVE_SECONDS, Ears, batches

RATES = (1e-4, 3e-4, 1e-3)
"""Learning rates of the tower, of what its units share and of what each has alone."""
GAP_WEIGHT = 2.0
LOOKED_UP = 0.25
"""Part of each batch that is looked up: that costs as much as hearing it."""


def train_lookup(
    lookup: Lookup,
    ears: Ears,
    clips: Sequence[Clip],
    *,
    clock: Clock,
    seed: int,
    checkpoint: Path,
    evaluate: Callable[[], str],
    report: Callable[[str], None],
) -> None:
    """Train the tower and the lookup's units until the clock runs out.

    Args:
        lookup: The model to train, in place.
        ears: What turns the clips into features and classes.
        clips: The clips to train on; each says only tokens that have a unit.
        clock: The budget of seconds, earlier runs included.
        seed: Seed of the batches and of how clips are varied.
        checkpoint: Where the stage goes on from, and is kept every few minutes.
        evaluate: Called after each checkpoint; returns a line to report.
        report: Called with lines of progress.
    """
    rng = random.Random(seed)
    stage = LookupStage(lookup, clock, checkpoint)
    smoothed = Smoothed()

    def prepare(batch: list[Clip]) -> tuple[Tensor, Tensor, list[Tensor]]:
        found = collate([ears.features(clip, rng) for clip in batch])
        return (*found, [ears.tokens(clip.text) for clip in batch])

    while not clock.over():
        for features, lengths, said in prefetch(prepare, batches(clips, rng)):
            if clock.over():
                break
            ctc, gap = smoothed.add(stage.learn(features, lengths, said))
            if stage.step % 20 == 0:
                seconds = clock.seconds()
                report(f"step {stage.step} {seconds:.0f} s CTC {ctc:.3f} gap {gap:.3f}")
            stage.keep(evaluate, report, every=SAVE_SECONDS)
    stage.keep(evaluate, report)


class LookupStage(Stage):
    """Stage 2: the units learn to be sure, and silent where nothing is said."""

    def __init__(self, lookup: Lookup, clock: Clock, checkpoint: Path) -> None:
        self.lookup = lookup
        groups = [list(lookup.body()), list(lookup.shared()), list(lookup.single())]
        optimizer = torch.optim.AdamW(
            [{"params": group} for group in groups], betas=(0.9, 0.98), weight_decay=0.0
        )
        super().__init__(lookup, optimizer, clock, checkpoint)
        self.restore()

    def learn(
        self, features: Tensor, lengths: Tensor, said: Sequence[Tensor]
    ) -> list[float]:
        """Make one step on a batch; return its CTC loss and its gap."""
        set_rates(self.optimizer, RATES, step=self.step, part=self.clock.part())
        device = self.lookup.blank.device
        some = torch.randperm(len(said))[: max(1, round(LOOKED_UP * len(said)))]
        with autocast(device):
            heard = self.lookup.listen(features.to(device), lengths, said, rows=some)
            loss = hearing_loss(heard)
        self.descend(loss)
        return [float(heard.ctc.detach()), float(heard.gap.detach())]


def hearing_loss(heard: Heard) -> Tensor:
    """Return what both this stage and the answering one take of what was heard."""
    return heard.ctc + GAP_WEIGHT * heard.gap
