from __future__ import annotations

import pytest
import torch

from sarguard.reference.training import schedule
from sarguard.reference.training.schedule import (
    FINAL_PART,
    WARM_UP_STEPS,
    Clock,
    set_rates,
)


class Time:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(schedule, "time", fake)
    return fake


def test_a_clock_counts_its_budget(time: Time) -> None:
    clock = Clock(60.0)
    assert (clock.seconds(), clock.part(), clock.over()) == (0.0, 0.0, False)
    time.now += 15
    assert (clock.seconds(), clock.part(), clock.over()) == (15.0, 0.25, False)
    time.now += 45
    assert (clock.part(), clock.over()) == (1.0, True)
    time.now += 999
    assert clock.part() == 1.0


def test_a_clock_counts_earlier_runs(time: Time) -> None:
    clock = Clock(60.0)
    clock.spent = 50.0
    time.now += 4
    assert clock.seconds() == 54.0
    assert not clock.over()
    time.now += 6
    assert clock.over()


@pytest.fixture
def optimizer() -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
    return torch.optim.SGD(groups, lr=1.0)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("step", "part", "scale"),
    [
        (0, 0.0, 1 / WARM_UP_STEPS),
        (WARM_UP_STEPS // 2 - 1, 0.0, 0.5),
        (WARM_UP_STEPS - 1, 0.0, 1.0),
        (10 * WARM_UP_STEPS, 0.5, (1 + FINAL_PART) / 2),
        (10 * WARM_UP_STEPS, 1.0, FINAL_PART),
    ],
)
def test_rates_warm_up_by_steps_and_decay_by_the_clock(
    optimizer: torch.optim.Optimizer, step: int, part: float, scale: float
) -> None:
    set_rates(optimizer, (0.1, 0.02), step=step, part=part)
    assert rates(optimizer) == pytest.approx([0.1 * scale, 0.02 * scale])


def test_every_group_needs_its_rate(optimizer: torch.optim.Optimizer) -> None:
    with pytest.raises(ValueError, match="shorter"):
        set_rates(optimizer, (0.1,), step=0, part=0.0)
