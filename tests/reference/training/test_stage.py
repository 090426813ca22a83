from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sarguard.reference.training import stage as module
from sarguard.reference.training.hearing import Hearing
from sarguard.reference.training.stage import Smoothed, Stage
from tests.reference.training.students import StepClock, student


@pytest.fixture
def hearing() -> Hearing:
    return student(layers=1).hearing()


def begun(hearing: Hearing, checkpoint: Path, steps: int = 9) -> Stage:
    parameters = [hearing.blank, hearing.log_tau]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.0)
    return Stage(hearing, optimizer, StepClock(steps), checkpoint)


def test_a_step_goes_down_the_loss_and_is_counted(
    hearing: Hearing, tmp_path: Path
) -> None:
    stage = begun(hearing, tmp_path / "stage.pt")
    losses = []
    for _ in range(5):
        loss = (hearing.blank - 2.0).square().sum()
        losses.append(float(loss.detach()))
        stage.descend(loss)
    assert stage.step == 5
    assert losses == sorted(losses, reverse=True)


def test_gradients_are_shortened_together(hearing: Hearing, tmp_path: Path) -> None:
    stage = begun(hearing, tmp_path / "stage.pt")
    stage.descend(1e4 * hearing.blank.sum() + 1e4 * hearing.log_tau)
    parts = [hearing.blank.grad, hearing.log_tau.grad]
    length = sum(float(part.square().sum()) for part in parts) ** 0.5
    assert length == pytest.approx(module.LONGEST_GRADIENT, rel=1e-4)


def test_a_stage_goes_on_from_its_checkpoint(hearing: Hearing, tmp_path: Path) -> None:
    path = tmp_path / "stage.pt"
    stage = begun(hearing, path)
    stage.descend(hearing.blank.sum())
    stage.clock.part()
    stage.save()
    assert [entry.name for entry in tmp_path.iterdir()] == ["stage.pt"]
    other = begun(student(layers=1, seed=5).hearing(), path)
    other.restore()
    assert (other.step, other.clock.spent) == (1, 1.0)
    assert torch.equal(other.hearing.blank, hearing.blank)
    # The optimizer's memory comes back too: the next steps are the same.
    for each in (stage, other):
        each.descend(each.hearing.blank.square().sum())
    assert torch.equal(other.hearing.blank, hearing.blank)


def test_without_a_checkpoint_it_starts_anew(hearing: Hearing, tmp_path: Path) -> None:
    stage = begun(hearing, tmp_path / "none.pt")
    stage.restore()
    assert (stage.step, stage.clock.spent) == (0, 0.0)


def test_it_is_kept_every_so_often(
    hearing: Hearing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    stage, said = begun(hearing, tmp_path / "stage.pt"), []
    for seconds in (0, 299, 1, 299, 1):
        now[0] += seconds
        stage.keep(lambda: "fine", said.append, every=300.0)
        assert stage.checkpoint.exists() == bool(said)
    assert said == ["fine"] * 2
    stage.keep(lambda: "done", said.append)
    assert said[-1] == "done"


def test_figures_are_smoothed_from_the_first_on() -> None:
    smoothed = Smoothed()
    assert smoothed.add([2.0, 5.0]) == pytest.approx([2.0, 5.0])
    assert smoothed.add([3.0, 5.0]) == pytest.approx([2.03, 5.0])
    for _ in range(300):
        smoothed.add([4.0, 0.0])
    assert smoothed.values == pytest.approx([4.0, 0.0], abs=1e-3)
