from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sarguard
from sarguard.cli import ask, doctor
from sarguard.cli.main import main
from sarguard.errors import AudioSilentError, UnsupportedModelError
from tests.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "numpy", "rich", "pydantic", "librosa")


def failing(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def start(*program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (AudioSilentError("the clip is silent: speak up"), 2, "the clip is silent"),
        (UnsupportedModelError("no such model"), 2, "no such model"),
        (ModuleNotFoundError("No module named 'torch'"), 1, "sarguard doctor"),
        (PermissionError(13, "Permission denied", "x.json"), 2, "x.json"),
        (RuntimeError("the sky fell"), 1, "--traceback"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_one_clean_line(
    error: BaseException,
    status: int,
    said: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "run", failing(error))
    found, out, err = run("doctor")
    assert found == status
    assert out == ""
    assert said in err
    assert err.strip().count("\n") == 0
    assert "Traceback" not in err


def test_a_defect_can_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run", failing(RuntimeError("the sky fell")))
    with pytest.raises(RuntimeError, match="the sky fell"):
        main(["--traceback", "doctor"])


def test_the_status_of_a_command_is_the_status(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "run", lambda _: 1)
    assert run("ask", "a.wav")[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["ask"],
        ["ask", "a.wav", "--alpha", "0"],
        ["ask", "a.wav", "--alpha", "nan"],
        ["ask", "a.wav", "--alpha", "much"],
        ["ask", "a.wav", "--max-new-tokens", "0"],
        ["evaluate", "--alphas", "0.1,-1"],
        ["evaluate", "--alphas", ""],
        ["evaluate", "--arms", "bare,best"],
        ["evaluate", "--voice", "loud"],
        ["evaluate", "--limit", "1.5"],
        ["calibrate", "model"],
        ["calibrate", "model", "-o", "b", "--lambda", "2"],
        ["calibrate", "model", "-o", "b", "--rank", "0"],
    ],
    ids=" ".join,
)
def test_senseless_options_are_refused_at_once(arguments: list[str], run: Run) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert "error:" in err


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version")[:2] == (0, f"sarguard {sarguard.__version__}\n")


@pytest.mark.parametrize(
    "command", ["demo", "ask", "evaluate", "calibrate", "bench", "models", "doctor"]
)
def test_every_command_has_help(command: str, run: Run) -> None:
    assert command in run("--help")[1]
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "--json" in out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, json; from sarguard.cli.main import build_parser; "
        "build_parser().format_help(); "
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    assert json.loads(start("-c", code).stdout) == []


def test_python_m_sarguard_works() -> None:
    started = time.perf_counter()
    done = start("-m", "sarguard", "--version")
    # Reported, not asserted: a busy machine would fail it.
    print(f"python -m sarguard --version: {time.perf_counter() - started:.2f} s")
    assert done.stdout == f"sarguard {sarguard.__version__}\n"


def test_a_reader_that_leaves_makes_no_noise() -> None:
    code = (
        "import sys; from sarguard.cli import doctor, main; "
        "doctor.run = lambda _: sys.stdout.write('x' * 10**6) and 0; "
        "sys.exit(main.main(['doctor']))"
    )
    shell = f'{sys.executable} -c "{code}" | head -c 1'
    done = subprocess.run(
        shell, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("x", "")


def test_the_command_alone_prints_the_commands(run: Run) -> None:
    status, out, err = run()
    assert (status, err) == (0, "")
    assert all(command in out for command in ("demo", "calibrate", "audit", "doctor"))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sarguard aud", "audit"),
        ("sarguard audit ver", "verify"),
        ("sarguard audit stats --interv", "--interventions"),
        ("sarguard demo --tier bal", "balanced"),
    ],
)
def test_a_shell_is_told_how_a_line_goes_on(
    line: str, offered: str, tmp_path: Path
) -> None:
    # As the scripts of argcomplete ask, but for file descriptor 8 that they read from.
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered"),
    }
    command = [sys.executable, "-m", "sarguard"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert offered in (tmp_path / "offered").read_text().strip()
