from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers

from sarguard.errors import UnsupportedModelError
from sarguard.models.families import FAMILIES, THINKERS, UNSUPPORTED
from sarguard.models.identity import template_digest
from sarguard.models.inputs import batch_key, build_inputs
from sarguard.models.loading import load_model, wrap_model
from sarguard.models.quirks import settle
from sarguard.models.transformers_api import passing_cache, returned_cache
from sarguard.types import Turn
from tests import tiny, tiny_seeing, tiny_standins
from tests.contract.families import fresh, shared

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
RECOGNISERS = (
    "whisper",
    "moonshine",
    "moonshine_streaming",
    "speech_to_text",
    "speecht5",
    "seamless_m4t",
    "seamless_m4t_v2",
)


def save_config(home: Path, kind: str, architecture: str) -> Path:
    home.mkdir()
    content = {"model_type": kind, "architectures": [architecture]}
    (home / "config.json").write_text(json.dumps(content))
    return home


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_a_familys_class_is_in_the_library(kind: str) -> None:
    architecture = FAMILIES[kind].architecture
    assert hasattr(transformers, architecture)
    assert architecture not in THINKERS
    assert getattr(transformers, architecture).config_class.model_type == kind


@pytest.mark.parametrize(
    ("kind", "architecture", "reason"),
    [
        (
            "voxtral_realtime",
            "VoxtralRealtimeForConditionalGeneration",
            "takes no instruction",
        ),
        (
            "kyutai_speech_to_text",
            "KyutaiSpeechToTextForConditionalGeneration",
            "one empty token",
        ),
    ],
)
def test_a_family_without_instructions_is_refused_with_the_reason(
    kind: str, architecture: str, reason: str, tmp_path: Path
) -> None:
    assert kind in UNSUPPORTED
    with pytest.raises(UnsupportedModelError, match=reason):
        load_model(save_config(tmp_path / "model", kind, architecture))


def test_a_model_in_memory_without_instructions_is_refused_too() -> None:
    loaded = fresh("qwen2_audio")
    loaded.model.config.model_type = "voxtral_realtime"
    with pytest.raises(UnsupportedModelError, match="takes no instruction"):
        wrap_model(loaded.model, loaded.processor, name="x")


@pytest.mark.parametrize("kind", RECOGNISERS)
def test_a_speech_recogniser_is_refused(kind: str, tmp_path: Path) -> None:
    home = save_config(tmp_path / "model", kind, architecture_of(kind))
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        load_model(home)


def architecture_of(kind: str) -> str:
    names = (
        transformers.models.auto.modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
    )
    return names[kind] if isinstance(names[kind], str) else names[kind][0]


class TestOmniWrappers:
    """The full models also speak; only their thinker answers in text."""

    @pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
    def test_the_thinker_is_guarded(self, family: str) -> None:
        words = tiny.tokenizer(**tiny_seeing.OMNI_WORDS)
        if family == "qwen2_5_omni":
            config = transformers.Qwen2_5OmniConfig(
                thinker_config=tiny_seeing.qwen2_5_thinker(words, 2).to_dict(),
                enable_audio_output=False,
            )
            whole = transformers.Qwen2_5OmniForConditionalGeneration(config)
            _, processor = tiny_seeing.qwen2_5_omni(layers=2)
        else:
            config = transformers.Qwen3OmniMoeConfig(
                thinker_config=tiny_seeing.qwen3_thinker(words, 2).to_dict(),
                enable_audio_output=False,
            )
            whole = transformers.Qwen3OmniMoeForConditionalGeneration(config)
            _, processor = tiny_seeing.qwen3_omni_moe(layers=2)
        loaded = wrap_model(whole, processor, name="x")
        assert loaded.model is whole.thinker
        assert type(loaded.model).__name__ == THINKERS[type(whole).__name__]
        assert loaded.decoder.path == "model.language_model.layers"


class TestGranitesAdapter:
    """Its generate() switches an adapter; its forward() keeps the last state."""

    @pytest.fixture
    def switched(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        self.loaded = fresh("granite_speech")
        seen: list[str] = []
        model = self.loaded.model
        monkeypatch.setattr(model, "_hf_peft_config_loaded", True)
        monkeypatch.setattr(model, "enable_adapters", lambda: seen.append("on"))
        monkeypatch.setattr(model, "disable_adapters", lambda: seen.append("off"))
        return seen

    def test_it_follows_every_new_prompt(self, switched: list[str]) -> None:
        ids = {"input_ids": torch.tensor([[1, 2, 3]])}
        backbone = self.loaded.decoder.backbone
        with torch.no_grad():
            output = backbone(**ids, use_cache=True)
            assert switched == ["off"]
            backbone(
                input_ids=torch.tensor([[4]]), **passing_cache(returned_cache(output))
            )
            assert switched == ["off"]
            turn = Turn(role="user", text="Hi.", audio=(tiny.clip(0.5),))
            backbone(**build_inputs(self.loaded, [[turn]]))
        assert switched == ["off", "on"]

    def test_it_is_hung_on_once(self) -> None:
        loaded = fresh("granite_speech")
        before = len(loaded.decoder.backbone._forward_pre_hooks)
        settle(loaded.model, loaded.decoder)
        assert len(loaded.decoder.backbone._forward_pre_hooks) == before == 1


class TestBatchKeys:
    def test_of_an_unknown_family_nothing_is_taken_for_granted(self) -> None:
        loaded = fresh("qwen2_audio")
        loaded.model.config.model_type = "telepathy"
        assert len({batch_key(loaded, turns) for turns in conversations()}) == 3

    def test_most_families_mix_anything(self) -> None:
        loaded = shared("qwen2_audio")
        assert len({batch_key(loaded, turns) for turns in conversations()}) == 1

    def test_some_need_equal_clips(self) -> None:
        loaded = shared("gemma3n")
        keys = [batch_key(loaded, turns) for turns in conversations()]
        assert keys[0] == keys[1]
        assert len(set(keys)) == 3


def conversations() -> list[list[Turn]]:
    """Return two prompts with equal clips, one with another, one without."""
    clips = [tiny.clip(0.5), tiny.clip(0.5, pitch=300), tiny.clip(0.7)]
    heard = [[Turn(role="user", text="Hi.", audio=(clip,))] for clip in clips]
    return [*heard, [Turn(role="user", text="Hi.")]]


def test_a_voxtrals_prompt_writer_is_told_from_another() -> None:
    _, processor = tiny_standins.voxtral(layers=1)
    first = template_digest(processor)
    assert template_digest(processor) == first
    write = processor._write
    processor._write = lambda turns, features: write(turns, features) + "!"
    assert template_digest(processor) != first


def test_the_docs_say_what_the_table_says() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| `(\w+)` \| ([^|]+) \| ([^|]+) \|", DOCS.read_text(), re.M
    )
    found = {name.strip(): (cls, clip, prompt) for name, cls, clip, prompt in rows}
    expected = {
        family.name: (
            family.architecture,
            "its window" if family.max_seconds is None else f"{family.max_seconds:g} s",
            "1 clip" if family.single_audio else "any",
        )
        for family in FAMILIES.values()
    }
    assert found == expected


def test_a_recogniser_that_is_told_a_language_alone_is_refused() -> None:
    loaded = fresh("qwen2_audio")
    loaded.model.config.model_type = "omniasr"
    with pytest.raises(UnsupportedModelError, match="told a language"):
        wrap_model(loaded.model, loaded.processor, name="omniasr")


def test_what_labels_frames_is_not_asked_for_its_layers() -> None:
    loaded = fresh("qwen2_audio")
    loaded.model.config.architectures = ["OmniASRForCTC"]
    with pytest.raises(UnsupportedModelError, match="no text decoder") as raised:
        wrap_model(loaded.model, loaded.processor, name="omniasr")
    assert "decoder_layers" not in str(raised.value)
