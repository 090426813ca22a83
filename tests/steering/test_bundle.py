from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sarguard.calibration.build import calibrate, clips_digest
from sarguard.calibration.contexts import SPOKEN, WRITTEN
from sarguard.calibration.recipe import Recipe
from sarguard.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigurationError,
)
from sarguard.steering.bundle import (
    CARD_FILE,
    VECTORS_FILE,
    RefusalCard,
    SteeringBundle,
    TierCaps,
    TierChoice,
    TierMeasure,
)
from sarguard.steering.gate import READING_KINDS
from sarguard.steering.vectors import RefusalVectors, vectors_digest
from tests import tiny

CAPS = TierCaps(safe=0.02, borderline=0.05, ordinary=0.01)


def choice(**found: float) -> TierChoice:
    added = {"safe_added": 0.02, "borderline_added": 0.05, "ordinary_added": 0.01}
    measure = {"harmful_refused": 0.97, "benign_added": 0.03, "broken_added": 0.0}
    settings = {**added, **measure, **found}
    return TierChoice(
        aim=0.97,
        caps=CAPS,
        validation=TierMeasure(harmful=100, harmless=300, **settings),
    )


@pytest.fixture
def saved(tiny_bundle: SteeringBundle, tmp_path: Path) -> Path:
    return tiny_bundle.save(tmp_path / "bundle")


def edit_card(home: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = home / CARD_FILE
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


class TestRoundTrip:
    def test_a_bundle_survives_the_disk(
        self, tiny_bundle: SteeringBundle, saved: Path
    ) -> None:
        found = SteeringBundle.load(saved)
        assert found.card == tiny_bundle.card
        assert found.digest == tiny_bundle.digest
        for name in ("raw", "ablated", "explained_variance", "state_norms"):
            expected = getattr(tiny_bundle.vectors, name)
            assert torch.equal(getattr(found.vectors, name), expected)
        assert found.gate.scales == tiny_bundle.gate.scales
        states = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(0))
        for kind in READING_KINDS:
            assert torch.equal(
                found.gate.score(states, kind), tiny_bundle.gate.score(states, kind)
            )

    def test_the_card_says_what_was_scored_in_each_context(
        self, tiny_bundle: SteeringBundle
    ) -> None:
        contexts = tiny_bundle.card.gate.contexts
        assert set(contexts) == {*SPOKEN, *WRITTEN}
        for found in contexts.values():
            assert found.harmful == sorted(found.harmful)
            assert found.harmless == sorted(found.harmless)
            assert found.withheld(None) == (0.0, 0.0)
            assert found.withheld(found.harmful[0])[0] == 1.0
            above = found.harmful[-1] + 1
            assert found.withheld(above)[0] == 0.0
        assert set(tiny_bundle.card.gate.scales) == set(READING_KINDS)

    def test_the_card_tells_where_the_vectors_come_from(
        self, tiny_bundle: SteeringBundle
    ) -> None:
        card, vectors = tiny_bundle.card, tiny_bundle.vectors
        assert card.model_name == "tiny-qwen2_audio"
        assert card.architecture == "Qwen2AudioForConditionalGeneration"
        assert (card.layers, card.hidden_size) == (3, 64)
        assert (card.pairs, card.rank, card.lam, card.alpha) == (5, 2, 1.0, 0.1)
        assert card.instruction.startswith("Please generate detailed steps")
        assert card.refusal == "I cannot assist with that."
        assert card.calibration_digest == clips_digest(tiny.pairs(5))
        assert card.norms == pytest.approx(vectors.ablated.norm(dim=1).tolist())
        assert card.raw_norms == pytest.approx(vectors.raw.norm(dim=1).tolist())
        assert all(0 < cosine <= 1 for cosine in card.cosine)
        for shares in card.explained_variance:
            assert len(shares) == 2
            assert 0 < sum(shares) <= 1 + 1e-6

    def test_only_plain_files_are_written(self, saved: Path) -> None:
        assert sorted(p.name for p in saved.iterdir()) == [CARD_FILE, VECTORS_FILE]
        assert [p.name for p in saved.parent.iterdir()] == ["bundle"]

    def test_a_bundle_replaces_a_bundle(
        self, tiny_bundle: SteeringBundle, saved: Path
    ) -> None:
        other = calibrate(
            tiny.shared(), tiny.pairs(4), Recipe(rank=1), alpha=0.2, needs_refusal=False
        )
        other.save(saved)
        assert SteeringBundle.load(saved).digest == other.digest
        assert other.digest != tiny_bundle.digest

    @pytest.mark.parametrize("kind", ["file", "directory"])
    def test_nothing_else_is_replaced(
        self, tiny_bundle: SteeringBundle, tmp_path: Path, kind: str
    ) -> None:
        target = tmp_path / "precious"
        if kind == "file":
            target.write_text("mine")
        else:
            target.mkdir()
            (target / "thesis.tex").write_text("mine")
        with pytest.raises(ConfigurationError, match="not a bundle"):
            tiny_bundle.save(target)
        assert target.exists()

    def test_a_failed_save_leaves_the_old_bundle(
        self,
        tiny_bundle: SteeringBundle,
        saved: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        other = calibrate(
            tiny.shared(), tiny.pairs(4), Recipe(rank=1), needs_refusal=False
        )
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            other.save(saved)
        assert SteeringBundle.load(saved).digest == tiny_bundle.digest
        assert [p.name for p in saved.parent.iterdir()] == ["bundle"]


class TestDamage:
    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactNotFoundError, match="sarguard calibrate"):
            SteeringBundle.load(tmp_path / "nowhere")

    @pytest.mark.parametrize("name", [CARD_FILE, VECTORS_FILE])
    def test_a_file_is_missing(self, saved: Path, name: str) -> None:
        (saved / name).unlink()
        with pytest.raises(ArtifactNotFoundError, match=name):
            SteeringBundle.load(saved)

    def test_every_byte_of_the_vectors_counts(self, saved: Path) -> None:
        path = saved / VECTORS_FILE
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        with pytest.raises(ArtifactIntegrityError, match="recorded digest"):
            SteeringBundle.load(saved)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("alpha", 0.0001), ("weights_digest", "0" * 64), ("model_name", "other")],
    )
    def test_every_field_of_the_card_counts(
        self, saved: Path, field: str, value: object
    ) -> None:
        edit_card(saved, lambda card: card.update({field: value}))
        with pytest.raises(ArtifactIntegrityError):
            SteeringBundle.load(saved)

    @pytest.mark.parametrize("version", [0, 4, None, "5"])
    def test_another_format_version(self, saved: Path, version: object) -> None:
        edit_card(saved, lambda card: card.update(format_version=version))
        remedy = f"sarguard calibrate tiny-qwen2_audio -o {saved}"
        with pytest.raises(ArtifactFormatError, match="format version") as refused:
            SteeringBundle.load(saved)
        assert remedy in str(refused.value)

    @pytest.mark.parametrize(
        "change",
        [
            lambda card: card.pop("alpha"),
            lambda card: card.update(alpha=0),
            lambda card: card.update(alpha=float("inf")),
            lambda card: card.update(created="yesterday"),
            lambda card: card.update(surprise=1),
            lambda card: card.pop("digest"),
        ],
    )
    def test_a_card_has_to_be_a_card(
        self, saved: Path, change: Callable[[dict[str, Any]], object]
    ) -> None:
        edit_card(saved, change)
        with pytest.raises(ArtifactFormatError):
            SteeringBundle.load(saved)

    @pytest.mark.parametrize("content", [b"", b"not json", b"[1, 2]", b"\xff\xfe"])
    def test_a_card_has_to_be_json(self, saved: Path, content: bytes) -> None:
        (saved / CARD_FILE).write_bytes(content)
        with pytest.raises(ArtifactFormatError):
            SteeringBundle.load(saved)

    def test_vectors_of_another_bundle(self, saved: Path) -> None:
        vectors = safetensors.torch.load_file(saved / VECTORS_FILE)
        vectors["ablated"] = vectors["ablated"] * 0
        safetensors.torch.save_file(vectors, saved / VECTORS_FILE)
        with pytest.raises(ArtifactIntegrityError):
            SteeringBundle.load(saved)

    def test_vectors_have_to_match_the_card_in_memory(
        self, tiny_bundle: SteeringBundle
    ) -> None:
        found = tiny_bundle.vectors
        weaker = RefusalVectors(
            raw=found.raw,
            ablated=found.ablated * 0.5,
            explained_variance=found.explained_variance,
            state_norms=found.state_norms,
        )
        with pytest.raises(ArtifactIntegrityError, match="not those"):
            SteeringBundle(card=tiny_bundle.card, vectors=weaker, gate=tiny_bundle.gate)


class TestCheck:
    def test_its_own_model_passes(self, tiny_bundle: SteeringBundle) -> None:
        tiny_bundle.check(tiny.build())

    def test_the_same_weights_in_bfloat16_pass(
        self, tiny_bundle: SteeringBundle
    ) -> None:
        loaded = tiny.build()
        loaded.model.bfloat16()
        tiny_bundle.check(loaded)

    def test_float16_is_named_as_the_cause(self, tiny_bundle: SteeringBundle) -> None:
        loaded = tiny.build()
        loaded.model.half()
        with pytest.raises(ArtifactMismatchError, match=r"as float16.*--dtype") as it:
            tiny_bundle.check(loaded)
        assert "weights_digest" in str(it.value)

    def test_other_weights(self, tiny_bundle: SteeringBundle) -> None:
        with pytest.raises(ArtifactMismatchError, match="weights_digest"):
            tiny_bundle.check(tiny.build(seed=1))

    def test_another_template(self, tiny_bundle: SteeringBundle) -> None:
        loaded = tiny.build()
        loaded.processor.chat_template += "\n"
        with pytest.raises(ArtifactMismatchError, match="template_digest"):
            tiny_bundle.check(loaded)

    def test_another_architecture(self, tiny_bundle: SteeringBundle) -> None:
        with pytest.raises(ArtifactMismatchError, match="architecture"):
            tiny_bundle.check(tiny.build("glmasr"))

    def test_more_layers(self, tiny_bundle: SteeringBundle) -> None:
        with pytest.raises(ArtifactMismatchError, match="layers: bundle 3, model 4"):
            tiny_bundle.check(tiny.build(layers=4))


class TestVectors:
    def test_the_digest_sees_values_and_shape(self) -> None:
        base = torch.arange(6.0)
        digests = {
            vectors_digest(base.reshape(2, 3)),
            vectors_digest(base.reshape(3, 2)),
            vectors_digest(base.reshape(2, 3) + 1e-6),
        }
        assert len(digests) == 3

    @pytest.mark.parametrize("broken", ["dtype", "shape", "nan"])
    def test_vectors_are_checked(self, broken: str) -> None:
        raw = torch.ones(2, 4)
        if broken == "dtype":
            raw = raw.double()
        elif broken == "shape":
            raw = raw[:, :3]
        else:
            raw[0, 0] = float("nan")
        with pytest.raises(ArtifactFormatError, match="raw"):
            RefusalVectors(
                raw=raw,
                ablated=torch.ones(2, 4),
                explained_variance=torch.ones(2, 1),
                state_norms=torch.ones(2),
            )


class TestTierChoice:
    def test_a_tier_at_its_aim_and_at_its_caps_has_met_them(self) -> None:
        assert choice().met
        # 27/120 - 21/120 is less exact than 6/120.
        assert choice(safe_added=0.02 + 1e-15).met

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("harmful_refused", 0.96),
            ("safe_added", 0.03),
            ("borderline_added", 0.06),
            ("ordinary_added", 0.02),
        ],
    )
    def test_a_tier_that_misses_its_aim_or_any_cap_has_not(
        self, name: str, value: float
    ) -> None:
        assert not choice(**{name: value}).met

    def test_a_suite_that_was_not_run_counts_for_nothing(self) -> None:
        measure = choice(safe_added=0.5).validation.model_copy(
            update={"safe_added": None}
        )
        assert choice().model_copy(update={"validation": measure}).met


def test_a_card_without_the_twins_likelihood_keeps_its_digest(
    tiny_bundle: SteeringBundle, tmp_path: Path
) -> None:
    measured = {"clips": 3, "alpha": 0.2, "bare": -3.0, "steered": -2.0, "random": -3.0}
    for more in ({}, {"harmless": -3.5}):
        card = RefusalCard(**measured, **more)
        assert card.model_dump() == measured | more
        bundle = replace(
            tiny_bundle,
            card=tiny_bundle.card.model_copy(update={"refusal_check": card}),
        )
        home = bundle.save(tmp_path / f"bundle-{len(more)}")
        written = json.loads((home / CARD_FILE).read_text("utf-8"))["refusal_check"]
        assert written == measured | more
        assert SteeringBundle.load(home).card.refusal_check == card
