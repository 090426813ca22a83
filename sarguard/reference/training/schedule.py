"""Train by the clock: a time budget that survives restarts, and its learning rate."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

WARM_UP_STEPS = 60
FINAL_PART = 0.04


class Clock:
    """A budget of training seconds, counted across restarts."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.spent = 0.0
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds used, those of earlier runs included."""
        return self.spent + time.monotonic() - self._started

    def part(self) -> float:
        """Return the part of the budget used, 0 to 1."""
        return min(1.0, self.seconds() / self.budget)

    def over(self) -> bool:
        """Tell whether the budget is used up."""
        return self.seconds() >= self.budget


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Sequence[float], *, step: int, part: float
) -> None:
    """Set each group's rate: linear warm-up by steps, linear decay by the clock."""
    scale = min(1.0, (step + 1) / WARM_UP_STEPS) * (1.0 - (1.0 - FINAL_PART) * part)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * scale
