"""One stage of training: its time budget, number format, steps and checkpoint."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sarguard.reference.training.hearing import SpeechEncoder

_MATRIX_SIZE, _REPEATS = 1024, 8


def autocast(device: torch.device) -> torch.autocast:
    """Return a context that computes in `fastest_dtype`."""
    fast = fastest_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast is torch.bfloat16)


@cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU; on a CPU whichever of it and float32 is faster.

    Processors with matrix units for bfloat16 are several times faster in it; others
    emulate it at half the speed of float32.
    """
    if device.type != "cpu":
        return torch.bfloat16
    return min((torch.bfloat16, torch.float32), key=_seconds)


def _seconds(dtype: torch.dtype) -> float:
    one, other = torch.ones(2, _MATRIX_SIZE, _MATRIX_SIZE, dtype=dtype)
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - started)
    return best


Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield ``make(item)`` for each item, made in a thread one item ahead."""
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for item in items:
            following = pool.submit(make, item)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


WARM_UP_STEPS = 60
FINAL_FRACTION = 0.04
"""Fraction of the learning rate that is left when the budget is spent."""
MAX_GRADIENT_NORM = 1.0


class TimeBudget:
    """Budget of training seconds, counted across restarts."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.spent = 0.0
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds used, those of earlier runs included."""
        return self.spent + time.monotonic() - self._started

    def fraction(self) -> float:
        """Return the fraction of the budget used, 0 to 1."""
        return min(1.0, self.seconds() / self.budget)

    def is_spent(self) -> bool:
        """Return whether the budget is used up."""
        return self.seconds() >= self.budget


def set_learning_rates(
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    *,
    step: int,
    fraction: float,
) -> None:
    """Set each group's rate: linear warm-up by steps, linear decay by the budget."""
    scale = min(1.0, (step + 1) / WARM_UP_STEPS) * (
        1.0 - (1.0 - FINAL_FRACTION) * fraction
    )
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * scale


class Stage(ABC):
    """Training state of a stage, and its checkpoint between runs."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        budget: TimeBudget,
        checkpoint: Path,
    ) -> None:
        self.optimizer = optimizer
        self.budget = budget
        self.checkpoint = checkpoint
        self.step = 0
        self._saved = time.monotonic()

    @abstractmethod
    def weights(self) -> dict[str, Any]:
        """Return the weights to save, by name."""

    @abstractmethod
    def load_weights(self, state: dict[str, Any]) -> None:
        """Load what `weights` returned."""

    def restore(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.load_weights(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.budget.spent = state["step"], state["spent"]

    def sync_model(self) -> None:  # noqa: B027
        """Copy trained weights into the model, where they are not trained in place."""

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rates of this step, one a parameter group."""
        set_learning_rates(
            self.optimizer, rates, step=self.step, fraction=self.budget.fraction()
        )

    def update(self, loss: Tensor) -> None:
        """Make one optimiser step on a loss."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        groups = self.optimizer.param_groups
        trained = [p for group in groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.step += 1

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            **self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.budget.seconds(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def save_and_evaluate(
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
        self.sync_model()
        report(evaluate())
        self._saved = time.monotonic()


class HearingWeights(Stage):
    """A stage that trains an encoder."""

    def __init__(
        self,
        encoder: SpeechEncoder,
        optimizer: torch.optim.Optimizer,
        budget: TimeBudget,
        checkpoint: Path,
    ) -> None:
        self.encoder = encoder
        super().__init__(optimizer, budget, checkpoint)

    def weights(self) -> dict[str, Any]:
        """Return the weights to save, by name."""
        return {"hearing": self.encoder.state_dict()}

    def load_weights(self, state: dict[str, Any]) -> None:
        """Load what `weights` returned."""
        self.encoder.load_state_dict(state["hearing"])

    def sync_model(self) -> None:
        """Copy trained weights into the model that the encoder is part of."""
        self.encoder.sync_model()


def train_stage(
    stage: Stage,
    learn: Callable[[], Sequence[float]],
    figures: Sequence[str],
    *,
    evaluate: Callable[[], str],
    report: Callable[[str], None],
    save_seconds: float,
    report_steps: int = 20,
) -> None:
    """Make steps until a stage's budget is spent.

    Args:
        stage: What is trained, in place, and its budget.
        learn: Makes one step and returns its figures.
        figures: What they are called.
        evaluate: Called after each checkpoint; returns a line to report.
        report: Called with lines of progress.
        save_seconds: Seconds between checkpoints.
        report_steps: Steps between lines of progress.
    """
    averages = RunningAverage()
    while not stage.budget.is_spent():
        found = averages.add(learn())
        if stage.step % report_steps == 0:
            told = " ".join(
                f"{name} {value:.3f}"
                for name, value in zip(figures, found, strict=True)
            )
            report(f"step {stage.step} {stage.budget.seconds():.0f} s {told}")
        stage.save_and_evaluate(evaluate, report, every=save_seconds)
    stage.save_and_evaluate(evaluate, report)


class RunningAverage:
    """Exponential averages of a step's figures, over some thirty steps."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, figures: Sequence[float]) -> list[float]:
        """Take in the figures of one more step and return the averages."""
        before = self.values or figures
        self.values = [
            0.97 * old + 0.03 * new for old, new in zip(before, figures, strict=True)
        ]
        return self.values
