"""Hold the page on policies to what the code does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from sarguard.cli.main import main
from sarguard.policy.model import Policy
from tests.logs import capture_logs
from tests.policy.test_lint import WEAK

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def test_the_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(blocks("yaml")):
        path = tmp_path / ("clinic.yaml" if number == 0 else f"{number}.yaml")
        path.write_text(text, "utf-8")
        Policy.load(path)
    names: dict[str, Any] = {}
    with capture_logs() as logs:
        for text in blocks("python"):
            exec(text, names)
    assert [log["event"] for log in logs] == ["policy overridden"]
    assert str(names["in_force"].at().floor) == "balanced"


def test_the_commands_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "".join(blocks("console")).splitlines()
    assert len(lines) == 5
    for line in lines:
        command, _, file = line.partition("#")[0].partition(">")
        # As diff(1) does, it exits with 1 where there is a difference.
        assert main(shlex.split(command)[2:]) == int(" diff " in line), line
        said = capsys.readouterr().out
        assert not file or json.loads(said)


README = PAGE.parents[1] / "README.md"


def test_the_readme_s_policy_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "clinic.yaml"
    path.write_text(text, "utf-8")
    assert main(["policy", "lint", str(path)]) == 0
    assert Policy.load(path).retention.days == 400


def test_every_finding_is_listed() -> None:
    rows = re.findall(r"^\| (P\d+(?:, P\d+)*) \| (\w+) \|", PAGE.read_text(), re.M)
    listed = {
        (code, severity) for codes, severity in rows for code in codes.split(", ")
    }
    assert listed == {*((code, grave) for code, grave, _ in WEAK), ("P203", "warning")}


def test_every_section_is_listed() -> None:
    table = PAGE.read_text("utf-8").partition("| section |")[2].partition("\n\n")[0]
    listed = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M)))
    )
    assert listed | {"api_version"} == set(Policy.model_fields)
