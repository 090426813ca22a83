"""A tiny checkpoint with its bundle and a clip, and a clean process after each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from sarguard.cli.main import main
from sarguard.steering.bundle import SteeringBundle
from tests import tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the directory of a tiny random Qwen2-Audio."""
    return str(_save(tiny.shared(), tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the directory of another one, for which the bundle was not made."""
    return str(_save(tiny.build(seed=1), tmp_path_factory.mktemp("model") / "other"))


@pytest.fixture(scope="session")
def bundle(
    tiny_bundle: SteeringBundle, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Return the directory of the tiny model's bundle."""
    return str(tiny_bundle.save(tmp_path_factory.mktemp("bundle") / "tiny"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a clip of one second."""
    path = tmp_path_factory.mktemp("clips") / "question.wav"
    soundfile.write(path, tiny.clip(1.0), tiny.RATE)
    return str(path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line: (status, stdout, stderr)."""

    def run_main(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(arguments)
        except SystemExit as error:
            status = int(error.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_main


def _save(loaded: tiny.LoadedModel, folder: Path) -> Path:
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder
