from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sarguard.reference.training import stage as module
from sarguard.reference.training.hearing import SpeechEncoder
from sarguard.reference.training.stage import (
    FINAL_FRACTION,
    WARM_UP_STEPS,
    HearingWeights,
    RunningAverage,
    Stage,
    TimeBudget,
    autocast,
    fastest_dtype,
    prefetch,
    set_learning_rates,
)
from tests.reference.training.students import StepBudget, student

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget() -> None:
    fastest_dtype.cache_clear()


@pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
def test_a_cpu_computes_in_what_it_multiplies_fastest(
    fast: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_seconds", lambda dtype: float(dtype is not fast))
    assert fastest_dtype(CPU) is fast
    with autocast(CPU):
        found = torch.ones(2, 2) @ torch.ones(2, 2)
    assert found.dtype is fast


def test_a_gpu_computes_in_bfloat16() -> None:
    assert fastest_dtype(torch.device("cuda")) is torch.bfloat16


def test_the_machine_is_timed_in_both() -> None:
    assert module._seconds(torch.float32) > 0
    assert fastest_dtype(CPU) in {torch.bfloat16, torch.float32}


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_order_is_kept(count: int) -> None:
    assert list(prefetch(str, range(count))) == [str(n) for n in range(count)]


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            made.set()
        return number

    found = prefetch(make, range(3))
    assert next(found) == 0
    assert made.wait(5), "item 1 was not begun while item 0 was used"
    assert list(found) == [1, 2]


def test_no_more_than_one_item_is_made_ahead() -> None:
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        return number

    found = prefetch(make, range(100))
    assert [next(found), next(found)] == [0, 1]
    found.close()
    assert begun == [0, 1, 2]


def test_a_fault_in_making_reaches_the_caller() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise RuntimeError("cannot make 2")
        return number

    found = prefetch(make, range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(RuntimeError, match="cannot make 2"):
        next(found)


def test_a_fault_in_the_items_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise RuntimeError("no more items")

    with pytest.raises(RuntimeError, match="no more items"):
        list(prefetch(str, items()))


class Time:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(module, "time", fake)
    return fake


def test_a_clock_counts_its_budget(time: Time) -> None:
    budget = TimeBudget(60.0)
    assert (budget.seconds(), budget.fraction(), budget.is_spent()) == (0.0, 0.0, False)
    time.now += 15
    assert (budget.seconds(), budget.fraction(), budget.is_spent()) == (
        15.0,
        0.25,
        False,
    )
    time.now += 45
    assert (budget.fraction(), budget.is_spent()) == (1.0, True)
    time.now += 999
    assert budget.fraction() == 1.0


def test_a_clock_counts_earlier_runs(time: Time) -> None:
    budget = TimeBudget(60.0)
    budget.spent = 50.0
    time.now += 4
    assert budget.seconds() == 54.0
    assert not budget.is_spent()
    time.now += 6
    assert budget.is_spent()


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
        (10 * WARM_UP_STEPS, 0.5, (1 + FINAL_FRACTION) / 2),
        (10 * WARM_UP_STEPS, 1.0, FINAL_FRACTION),
    ],
)
def test_rates_warm_up_by_steps_and_decay_by_the_clock(
    optimizer: torch.optim.Optimizer, step: int, part: float, scale: float
) -> None:
    set_learning_rates(optimizer, (0.1, 0.02), step=step, fraction=part)
    assert rates(optimizer) == pytest.approx([0.1 * scale, 0.02 * scale])


def test_every_group_needs_its_rate(optimizer: torch.optim.Optimizer) -> None:
    with pytest.raises(ValueError, match="shorter"):
        set_learning_rates(optimizer, (0.1,), step=0, fraction=0.0)


@pytest.fixture
def encoder() -> SpeechEncoder:
    return student(layers=1).encoder()


def begun(encoder: SpeechEncoder, checkpoint: Path, steps: int = 9) -> Stage:
    parameters = [encoder.blank, encoder.log_tau]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.0)
    return HearingWeights(encoder, optimizer, StepBudget(steps), checkpoint)


def test_a_step_goes_down_the_loss_and_is_counted(
    encoder: SpeechEncoder, tmp_path: Path
) -> None:
    stage = begun(encoder, tmp_path / "stage.pt")
    losses = []
    for _ in range(5):
        loss = (encoder.blank - 2.0).square().sum()
        losses.append(float(loss.detach()))
        stage.update(loss)
    assert stage.step == 5
    assert losses == sorted(losses, reverse=True)


def test_gradients_are_shortened_together(
    encoder: SpeechEncoder, tmp_path: Path
) -> None:
    stage = begun(encoder, tmp_path / "stage.pt")
    stage.update(1e4 * encoder.blank.sum() + 1e4 * encoder.log_tau)
    parts = [encoder.blank.grad, encoder.log_tau.grad]
    length = sum(float(part.square().sum()) for part in parts) ** 0.5
    assert length == pytest.approx(module.MAX_GRADIENT_NORM, rel=1e-4)


def test_a_stage_goes_on_from_its_checkpoint(
    encoder: SpeechEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "stage.pt"
    stage = begun(encoder, path)
    stage.update(encoder.blank.sum())
    stage.budget.fraction()
    stage.save()
    assert [entry.name for entry in tmp_path.iterdir()] == ["stage.pt"]
    other = begun(student(layers=1, seed=5).encoder(), path)
    other.restore()
    assert (other.step, other.budget.spent) == (1, 1.0)
    assert torch.equal(other.encoder.blank, encoder.blank)
    # The optimizer's memory comes back too: the next steps are the same.
    for each in (stage, other):
        each.update(each.encoder.blank.square().sum())
    assert torch.equal(other.encoder.blank, encoder.blank)


def test_without_a_checkpoint_it_starts_anew(
    encoder: SpeechEncoder, tmp_path: Path
) -> None:
    stage = begun(encoder, tmp_path / "none.pt")
    stage.restore()
    assert (stage.step, stage.budget.spent) == (0, 0.0)


def test_it_is_kept_every_so_often(
    encoder: SpeechEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    stage, said = begun(encoder, tmp_path / "stage.pt"), []
    for seconds in (0, 299, 1, 299, 1):
        now[0] += seconds
        stage.save_and_evaluate(lambda: "fine", said.append, every=300.0)
        assert stage.checkpoint.exists() == bool(said)
    assert said == ["fine"] * 2
    stage.save_and_evaluate(lambda: "done", said.append)
    assert said[-1] == "done"


def test_figures_are_smoothed_from_the_first_on() -> None:
    averages = RunningAverage()
    assert averages.add([2.0, 5.0]) == pytest.approx([2.0, 5.0])
    assert averages.add([3.0, 5.0]) == pytest.approx([2.03, 5.0])
    for _ in range(300):
        averages.add([4.0, 0.0])
    assert averages.values == pytest.approx([4.0, 0.0], abs=1e-3)
