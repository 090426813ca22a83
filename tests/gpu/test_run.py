"""The script for GPUs runs as far as a CPU goes, and fails where a check does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import measure

SCRIPT = Path(__file__).with_name("run.sh")


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    done = subprocess.run(
        [SCRIPT, "--device", "cpu", "--tiny", "--out", out],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert out.read_text("utf-8") == done.stdout
    assert done.stdout.count("| holds |") == len(measure.CHECKS)
    assert "| decode step, steered / bare |" in done.stdout


def test_a_check_that_fails_is_told_and_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(device: str) -> str:
        """Check that nothing is lost."""
        raise RuntimeError(f"{device} lost")

    monkeypatch.setattr(measure, "CHECKS", (lost,))
    monkeypatch.setattr(measure, "figures", lambda *_, **__: [])
    monkeypatch.setattr(sys, "argv", ["measure", "--device", "cpu", "--tiny"])
    assert measure.main() == 1
    told = capsys.readouterr().out
    assert "| nothing is lost | **fails** | RuntimeError: cpu lost |" in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["measure"])
    with pytest.raises(SystemExit):
        measure.main()
