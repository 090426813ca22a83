"""Run every example as a user would."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# The maximum number of lines of an example, and how each of its requests may end.
ANY = {"answered", "refused"}
GUARDED = {*ANY, "blocked"}
EXPECTED: dict[str, tuple[int, list[set[str]]]] = {
    "agent_with_memory.py": (30, [ANY, ANY]),
    "ask_a_question.py": (10, [GUARDED, ANY]),
    "calibrate_your_model.py": (45, [ANY]),
    "chat_with_langchain.py": (29, [ANY, ANY]),
    "second_opinion.py": (31, [GUARDED, GUARDED]),
    "voice_chain.py": (40, [ANY]),
}
ENDED = re.compile(r"^(answered|refused|blocked|error_closed): (.+)$", re.MULTILINE)


def run(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run an example in another directory, with nothing on its path but itself."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:__main__"},
        capture_output=True,
        text=True,
        timeout=800,
    )


def test_every_example_is_run_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_is_short_and_says_what_it_does(name: str) -> None:
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= EXPECTED[name][0]
    assert ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("name", EXPECTED)
def test_what_an_example_imports_exists(name: str) -> None:
    tree = ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))
    imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), name, "exec"), {})


@pytest.mark.reference
@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    done = run(name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ended = [outcome for outcome, _ in ENDED.findall(done.stdout)]
    expected = EXPECTED[name][1]
    assert len(ended) == len(expected), done.stdout
    assert all(e in may for e, may in zip(ended, expected, strict=True)), done.stdout


@pytest.mark.slow
def test_any_model_can_be_calibrated(tmp_path: Path) -> None:
    from sarguard import SteeringBundle
    from tests import tiny

    loaded = tiny.shared()
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.processor.save_pretrained(tmp_path / "model")
    command = ("calibrate_your_model.py", "model", "--output", "made")
    refused = run(*command, cwd=tmp_path)
    assert refused.returncode == 1
    assert "NoRefusalError" in refused.stderr, "random weights refuse nothing"
    assert not (tmp_path / "made").exists()
    done = run(*command, "--allow-no-refusal", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "saved: made (12 pairs)" in done.stdout
    SteeringBundle.load(tmp_path / "made").check(loaded)
