from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from sarguard.steering.bundle import SteeringBundle
from tests import tiny
from tests.cli.conftest import Run

QUICK = ("--limit", "4", "--rank", "2", "--allow-no-refusal")


def write_manifest(folder: Path, pairs: int) -> str:
    rows: list[str] = []
    for number, pair in enumerate(tiny.pairs(pairs)):
        names = {"harmful": f"h{number}.wav", "safe": f"s{number}.wav"}
        soundfile.write(folder / names["harmful"], pair.harmful, tiny.RATE)
        soundfile.write(folder / names["safe"], pair.safe, tiny.RATE)
        rows.append(json.dumps(names))
    manifest = folder / "pairs.jsonl"
    manifest.write_text("\n".join(rows))
    return str(manifest)


def test_a_bundle_is_made_and_can_be_used(
    run: Run, checkpoint: str, clip: str, tmp_path: Path
) -> None:
    made = tmp_path / "bundle"
    status, out, err = run("calibrate", checkpoint, "-o", str(made), *QUICK)
    assert status == 0
    assert "4 pairs, rank 2" in out
    assert "Calibrating on 4 pairs" in err
    card = SteeringBundle.load(made).card
    assert (card.pairs, card.rank, card.lam, card.alpha) == (4, 2, 1.0, 0.1)
    assert card.benign == 4
    assert f"tells {card.gate.twins_told_apart:.0%} of pairs" in out
    for layer in range(card.layers):
        assert f"{card.norms[layer]:.2f}" in out
        assert f"{card.cosine[layer]:.3f}" in out
    command = f"sarguard ask clip.wav --model {checkpoint} --bundle {made}"
    assert command in out
    asked = ["--model", checkpoint, "--bundle", str(made), "--max-new-tokens", "3"]
    assert run("ask", clip, *asked)[0] == 0


def test_every_setting_reaches_the_card(
    run: Run, checkpoint: str, tmp_path: Path
) -> None:
    status, out, _ = run(
        *("calibrate", checkpoint, "-o", str(tmp_path / "b"), "--json"),
        *("--pairs", write_manifest(tmp_path, 5), "--limit", "4"),
        *("--rank", "3", "--lambda", "0.5", "--alpha", "0.07"),
        "--allow-no-refusal",
        *("--instruction", "Answer it.", "--refusal", "No, I will not."),
    )
    card = json.loads(out)["card"]
    assert status == 0
    assert (card["pairs"], card["rank"]) == (4, 3)
    assert (card["lam"], card["alpha"]) == (0.5, 0.07)
    assert card["instruction"] == "Answer it."
    assert card["refusal"] == "No, I will not."
    assert card["model_name"] == checkpoint
    assert card["benign"] == 0


def test_a_bundle_is_replaced(run: Run, checkpoint: str, tmp_path: Path) -> None:
    made = str(tmp_path / "bundle")
    run("calibrate", checkpoint, "-o", made, *QUICK)
    assert run("calibrate", checkpoint, "-o", made, *QUICK, "--alpha", "0.3")[0] == 0
    assert SteeringBundle.load(made).card.alpha == 0.3


def test_something_else_is_not_overwritten(
    run: Run, checkpoint: str, tmp_path: Path
) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("precious")
    for output in (tmp_path, precious):
        status, _, err = run("calibrate", checkpoint, "-o", str(output), *QUICK)
        assert status == 2
        assert str(output) in err
        assert "Loading" not in err
    assert precious.read_text() == "precious"


def test_a_model_without_a_refusal_gets_no_bundle(
    run: Run, checkpoint: str, tmp_path: Path
) -> None:
    made = tmp_path / "bundle"
    status, _, err = run(
        *("calibrate", checkpoint, "-o", str(made), "--limit", "3", "--rank", "1")
    )
    assert status == 2
    assert "no refusal that could be extracted" in err
    assert not made.exists()


def test_tiers_are_chosen_and_measured(
    run: Run, checkpoint: str, tmp_path: Path
) -> None:
    made = tmp_path / "bundle"
    status, out, _ = run(
        *("calibrate", checkpoint, "-o", str(made), "--choose-tiers"),
        *("--limit", "3", "--rank", "1", "--allow-no-refusal"),
    )
    assert status == 0
    assert "Tiers" in out
    for tier in SteeringBundle.load(made).card.tiers.values():
        assert tier.choice is not None
        assert (tier.choice.validation.harmful, tier.choice.validation.harmless) == (
            *(3, 9),
        )
        assert tier.choice.test is not None
        assert tier.choice.test.harmful == 3


def test_too_few_pairs_are_refused(run: Run, checkpoint: str, tmp_path: Path) -> None:
    status, _, err = run(
        "calibrate", checkpoint, "-o", str(tmp_path / "b"), "--limit", "4"
    )
    assert status == 2
    assert "4 pair(s) for rank 10" in err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no manifest file"),
        ("", "names no pairs"),
        ("not json", "line 1"),
        ('{"harmful": "a.wav", "safe": "b.wav"}', "no harmful audio file"),
    ],
)
def test_a_bad_manifest_is_found_before_the_model_is_loaded(
    content: str | None, said: str, run: Run, tmp_path: Path
) -> None:
    manifest = tmp_path / "pairs.jsonl"
    if content is not None:
        manifest.write_text(content)
    status, _, err = run(
        *("calibrate", "no/such-model", "-o", str(tmp_path / "b")),
        *("--pairs", str(manifest)),
    )
    assert status == 2
    assert said in err


@pytest.mark.slow
def test_ctrl_c_leaves_what_the_same_command_goes_on_from(
    checkpoint: str, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "sarguard", "calibrate", checkpoint),
        *("-o", str(tmp_path / "bundle"), "--allow-no-refusal", "--limit", "60"),
    ]
    journal = tmp_path / ".bundle.reading"
    begun = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not [*journal.glob("*.safetensors")] and time.monotonic() < until:
        time.sleep(0.01)
    begun.send_signal(signal.SIGINT)
    _, said = begun.communicate(timeout=120)
    assert begun.returncode == 130
    assert "the same command goes on from there" in said
    assert not (tmp_path / "bundle").exists()
    kept = {path.name for path in journal.glob("*.safetensors")}
    assert kept
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "bundle" / "card.json").exists()
    assert not journal.exists()
