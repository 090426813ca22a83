"""Train stage 2: the lookup says embeddings closer to those of what was said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sarguard.reference.training.lookup import Heard, Lookup
from sarguard.reference.training.precision import autocast
from sarguard.reference.training.schedule import Clock, set_rates
from sarguard.reference.training.train_hearing import ClipStage

RATES = (1e-4, 3e-4, 1e-3)
"""Learning rates of the tower, of what its units share and of what each has alone."""
GAP_WEIGHT = 2.0
LOOKED_UP = 0.25
"""Part of each batch that is looked up: that costs as much as hearing it."""


class LookupStage(ClipStage):
    """Stage 2: the units learn to be sure, and silent where nothing is said."""

    figures = ("CTC", "gap")

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
