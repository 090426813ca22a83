from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from sarguard.errors import InsufficientDataError
from sarguard.evaluation import measuring
from tests import tiny
from tests.cli.conftest import Run


@pytest.fixture
def options(checkpoint: str, bundle: str) -> list[str]:
    quick = ["--max-new-tokens", "3", "--limit", "3", "--alphas", "0.1,0.3"]
    return [checkpoint, "--bundle", bundle, *quick]


def test_the_table_goes_to_stdout_and_json_to_its_file(
    run: Run, options: list[str], tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("t.json", "t.md")}
    status, out, err = run(
        *("evaluate", *options),
        *("--json", str(files["t.json"]), "--markdown", str(files["t.md"])),
    )
    assert status == 0
    assert "3 pairs (test, seen voices)" in out
    assert "6 requests in 7 arms" in err
    content = json.loads(files["t.json"].read_text())
    arms = [(row["arm"], row["alpha"]) for row in content["rows"]]
    assert arms == [("bare", 0.0)] + [
        (name, alpha) for name in ("raw", "ablated", "random") for alpha in (0.1, 0.3)
    ]
    assert len(content["labels"]) == 6
    assert set(content["labels"][0]) == {"pair", "kind", "labels"}
    assert files["t.md"].read_text().count("\n| ") == 9


def test_json_can_have_stdout_to_itself(run: Run, options: list[str]) -> None:
    status, out, err = run("evaluate", *options, "--arms", "bare,ablated", "--json=-")
    assert status == 0
    assert len(json.loads(out)["rows"]) == 3
    assert "harmful" in err


@pytest.mark.parametrize(("voice", "suffixes"), [("all", 2), ("unseen", 1)])
def test_voices_can_be_chosen(
    voice: str, suffixes: int, run: Run, options: list[str]
) -> None:
    chosen = ["--voice", voice, "--arms", "bare", "--limit", "4", "--json", "-"]
    content = json.loads(run("evaluate", *options, *chosen)[1])
    groups = {row["pair"].partition("/")[2] for row in content["labels"]}
    assert len(groups) == suffixes
    assert "unseen" in groups


def test_pairs_of_ones_own_can_be_asked(
    run: Run, options: list[str], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", tiny.clip(0.5), tiny.RATE)
    manifest = tmp_path / "pairs.jsonl"
    manifest.write_text('{"harmful": "a.wav", "safe": "b.wav"}\n')
    own = ["--pairs", str(manifest), "--arms", "bare", "--json", "-"]
    content = json.loads(run("evaluate", *options, *own)[1])
    assert content["pairs"] == 1
    assert content["pairs_from"] == str(manifest)


def test_settings_reach_the_measurement(
    run: Run, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}

    def measure(*_: object, **settings: object) -> None:
        seen.update(settings)
        raise InsufficientDataError("enough seen")

    monkeypatch.setattr(measuring, "measure", measure)
    run("evaluate", *options, "--text", "Say why.", "--batch-size", "3")
    assert seen["text"] == "Say why."
    assert (seen["batch_size"], seen["max_new_tokens"]) == (3, 3)


@pytest.mark.parametrize("option", ["--json", "--markdown"])
def test_a_file_that_cannot_be_written_is_found_at_once(
    option: str, run: Run, options: list[str], tmp_path: Path
) -> None:
    for file in (tmp_path / "nowhere" / "t", tmp_path):
        status, out, err = run("evaluate", *options, option, str(file))
        assert (status, out) == (2, "")
        assert f"cannot write {file}" in err
        assert "Loading" not in err


def test_a_bundle_of_another_model_is_refused(
    run: Run, other_checkpoint: str, bundle: str
) -> None:
    status, _, err = run("evaluate", other_checkpoint, "--bundle", bundle)
    assert status == 2
    assert "the bundle was made for" in err
