from __future__ import annotations

import json
from pathlib import Path

import pytest

from sarguard.errors import ArtifactFormatError, ConfigurationError
from sarguard.evaluation.arms.arm import BARE, Arm
from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.run.run_log import ANSWERS_FILE, MemoryLog, RunLog
from tests.evaluation.made_up import record

SETTINGS = {"model": "tiny", "arms": ["bare"]}
ONE = record("bare", "a", Label.REFUSED)
TWO = record("bare", "b", Label.COMPLIED)


def test_records_are_there_after_a_stop(tmp_path: Path) -> None:
    RunLog(tmp_path / "run", SETTINGS).add([ONE, TWO])
    again = RunLog(tmp_path / "run", SETTINGS)
    assert again.records == (ONE, TWO)
    assert again.has(BARE, "a")
    assert not again.has(Arm(name="ablated", alpha=0.1), "a")


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_cut_off_and_nothing_else(tmp_path: Path, cut: int) -> None:
    log = RunLog(tmp_path, SETTINGS)
    log.add([ONE, TWO])
    path = tmp_path / ANSWERS_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    again = RunLog(tmp_path, SETTINGS)
    assert again.records == (ONE,)
    again.add([TWO])
    assert RunLog(tmp_path, SETTINGS).records == (ONE, TWO)


def test_an_answer_is_kept_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path, SETTINGS)
    log.add([ONE])
    log.add([record("bare", "a", Label.BROKEN), TWO])
    assert log.records == (ONE, TWO)
    assert len((tmp_path / ANSWERS_FILE).read_text().splitlines()) == 2


def test_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    RunLog(tmp_path, SETTINGS).add([ONE])
    with pytest.raises(ConfigurationError, match="another arms, text: resume"):
        RunLog(tmp_path, SETTINGS | {"arms": ["raw 0.1"], "text": "x"})


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds files and no run"):
        RunLog(tmp_path, SETTINGS)


@pytest.mark.parametrize("line", ["{}", "no json", json.dumps({"arm": 3})])
def test_a_foreign_line_is_named(tmp_path: Path, line: str) -> None:
    log = RunLog(tmp_path, SETTINGS)
    log.add([ONE])
    with (tmp_path / ANSWERS_FILE).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ArtifactFormatError, match="line 2"):
        RunLog(tmp_path, SETTINGS)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_settings_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ArtifactFormatError, match=r"run\.json"):
        RunLog(tmp_path, SETTINGS)


def test_memory_forgets() -> None:
    log = MemoryLog()
    log.add([ONE])
    assert log.has(BARE, "a")
    assert MemoryLog().records == ()
