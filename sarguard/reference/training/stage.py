"""One stage of training: its steps, and the checkpoint that it goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sarguard.reference.training.hearing import Hearing
from sarguard.reference.training.schedule import Clock

LONGEST_GRADIENT = 1.0


class Stage:
    """What a stage trains, how far it is, and where that is kept between runs."""

    def __init__(
        self,
        hearing: Hearing,
        optimizer: torch.optim.Optimizer,
        clock: Clock,
        checkpoint: Path,
    ) -> None:
        self.hearing = hearing
        self.optimizer = optimizer
        self.clock = clock
        self.checkpoint = checkpoint
        self.step = 0
        self._saved = time.monotonic()

    def parts(self) -> dict[str, Any]:
        """Return the weights to keep, by name."""
        return {"hearing": self.hearing.state_dict()}

    def load_parts(self, state: dict[str, Any]) -> None:
        """Take the weights back from what `parts` returned."""
        self.hearing.load_state_dict(state["hearing"])

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.load_parts(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.clock.spent = state["step"], state["spent"]

    def descend(self, loss: Tensor) -> None:
        """Change every trained parameter by one step down the loss."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        groups = self.optimizer.param_groups
        trained = [p for group in groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, LONGEST_GRADIENT)
        self.optimizer.step()
        self.step += 1

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            **self.parts(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.clock.seconds(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def keep(
        self,
        evaluate: Callable[[], str],
        report: Callable[[str], None],
        *,
        every: float = 0.0,
    ) -> None:
        """Save and evaluate, unless that was done in the last ``every`` seconds."""
        if time.monotonic() - self._saved < every:
            return
        self.save()
        self.hearing.settle()
        report(evaluate())
        self._saved = time.monotonic()


class Smoothed:
    """Running averages of a step's figures, over some thirty steps."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, figures: Sequence[float]) -> list[float]:
        """Take in the figures of one more step and return the averages."""
        before = self.values or figures
        self.values = [
            0.97 * old + 0.03 * new for old, new in zip(before, figures, strict=True)
        ]
        return self.values
