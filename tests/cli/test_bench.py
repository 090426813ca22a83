from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Run

SMALL = ("--tokens", "3", "--repeats", "2", "--pairs", "12")


def test_it_writes_a_table_with_its_machine(run: Run, checkpoint: str) -> None:
    parts = ("--parts", "decoding,import,gpu")
    status, out, err = run("bench", checkpoint, *SMALL, *parts)
    said = " ".join(out.split())
    assert status == 0, err
    assert "steered / bare" in said
    assert "Machine:" in said
    assert "Measuring" in err


def test_it_writes_json(run: Run, checkpoint: str) -> None:
    parts = ("--parts", "decoding", "--json")
    status, out, _ = run("bench", checkpoint, *SMALL, *parts)
    content = json.loads(out)
    assert status == 0
    assert content["machine"]["device"] == "cpu"
    assert [found["bar"] for found in content["rows"]][:1] == ["<= 1.03"]
    assert len(content["rows"][0]["values"]) == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--parts", "speed"),
        ("--tokens", "2"),
        ("--pairs", "11"),
        ("--repeats", "0"),
    ],
)
def test_senseless_options_are_refused(run: Run, options: tuple[str, str]) -> None:
    status, out, err = run("bench", "model", *options)
    assert (status, out) == (2, "")
    assert "error:" in err
