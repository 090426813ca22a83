from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from sarguard.errors import ConfigurationError, UnsupportedModelError
from sarguard.models.loading import load_model, wrap_model
from tests import tiny


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    loaded = tiny.shared(request.param)
    home = tmp_path_factory.mktemp("checkpoint")
    loaded.model.save_pretrained(home)
    loaded.processor.save_pretrained(home)
    return home


@pytest.fixture
def config_only(tmp_path: Path) -> Path:
    tiny.shared().model.save_pretrained(tmp_path)
    return tmp_path


def save_text_model(home: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(home)
    tiny.tokenizer().save_pretrained(home)


def save_whisper(home: Path) -> None:
    config = transformers.WhisperConfig(
        vocab_size=60,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.WhisperForConditionalGeneration(config).save_pretrained(home)


class TestLoading:
    def test_a_checkpoint_loads_by_its_architecture(self, checkpoint: Path) -> None:
        loaded = load_model(checkpoint)
        named = json.loads((checkpoint / "config.json").read_text())["architectures"]
        assert [type(loaded.model).__name__] == named
        assert loaded.sampling_rate == 16_000
        assert loaded.dtype == torch.float32
        assert not loaded.model.training
        assert loaded.name == str(checkpoint)

    def test_the_dtype_is_the_callers(self, checkpoint: Path) -> None:
        assert load_model(checkpoint, dtype=torch.bfloat16).dtype == torch.bfloat16

    @pytest.mark.parametrize("progress", [True, False])
    def test_bars_are_shown_when_asked(
        self, checkpoint: Path, capfd: pytest.CaptureFixture[str], progress: bool
    ) -> None:
        load_model(checkpoint, progress=progress)
        assert bool(capfd.readouterr().err) is progress

    def test_the_window_is_the_processors(self) -> None:
        seconds = {name: tiny.shared(name).max_audio_seconds for name in tiny.FAMILIES}
        assert seconds == {"qwen2_audio": 30, "audioflamingo3": 600, "glmasr": 655}


class TestWhatCannotBeGuarded:
    def test_a_text_only_model(self, tmp_path: Path) -> None:
        save_text_model(tmp_path)
        with pytest.raises(UnsupportedModelError, match="text-only"):
            load_model(tmp_path)

    def test_an_encoder_decoder(self, tmp_path: Path) -> None:
        save_whisper(tmp_path)
        with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
            load_model(tmp_path)

    def test_a_path_that_is_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModelError, match="neither a directory"):
            load_model(tmp_path / "nowhere")

    def test_an_id_when_no_hub_can_be_reached(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UnsupportedModelError, match="network"):
            load_model("nobody/no-such-model")

    def test_a_file(self, tmp_path: Path) -> None:
        clip = tmp_path / "clip.wav"
        clip.write_bytes(b"RIFF")
        with pytest.raises(UnsupportedModelError, match="is a file"):
            load_model(clip)

    def test_an_empty_directory(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModelError, match=r"config\.json"):
            load_model(tmp_path)

    def test_a_checkpoint_without_weights(self, tmp_path: Path) -> None:
        tiny.shared().model.save_pretrained(tmp_path)
        tiny.shared().processor.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(UnsupportedModelError, match="cannot load"):
            load_model(tmp_path)

    def test_a_checkpoint_without_its_processor(self, config_only: Path) -> None:
        with pytest.raises(UnsupportedModelError):
            load_model(config_only)

    def test_damaged_weights(self, tmp_path: Path) -> None:
        loaded = tiny.shared()
        loaded.model.save_pretrained(tmp_path)
        loaded.processor.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"\x08" * 100)
        with pytest.raises(UnsupportedModelError, match="cannot load"):
            load_model(tmp_path)

    @pytest.mark.parametrize(
        ("architectures", "message"),
        [(None, "names no architecture"), (["FooForAudio"], "has no FooForAudio")],
    )
    def test_a_config_that_names_no_known_class(
        self, config_only: Path, architectures: list[str] | None, message: str
    ) -> None:
        path = config_only / "config.json"
        config = json.loads(path.read_text())
        config["architectures"] = architectures
        path.write_text(json.dumps(config))
        with pytest.raises(UnsupportedModelError, match=message):
            load_model(config_only)

    def test_an_unknown_model_type(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "telepathy"}')
        with pytest.raises(UnsupportedModelError, match="telepathy"):
            load_model(tmp_path)


class TestWrapping:
    def test_a_tokenizer_is_no_processor(self) -> None:
        loaded = tiny.shared()
        with pytest.raises(UnsupportedModelError, match="feature extractor"):
            wrap_model(loaded.model, loaded.tokenizer, name="x")

    def test_an_inner_model_cannot_answer(self) -> None:
        loaded = tiny.shared()
        with pytest.raises(UnsupportedModelError, match=r"no generate\(\)"):
            wrap_model(loaded.model.model, loaded.processor, name="x")

    def test_a_text_model_with_an_audio_processor(self) -> None:
        loaded = tiny.shared()
        config = transformers.LlamaConfig(
            vocab_size=300,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
        model = transformers.LlamaForCausalLM(config)
        with pytest.raises(UnsupportedModelError, match="takes no audio"):
            wrap_model(model, loaded.processor, name="x")

    def test_the_layers_can_be_named(self) -> None:
        loaded = tiny.shared()
        with pytest.raises(ConfigurationError, match=r"wrong\.path"):
            wrap_model(
                loaded.model, loaded.processor, name="x", decoder_layers="wrong.path"
            )

    def test_training_mode_is_left(self) -> None:
        loaded = tiny.build()
        loaded.model.train()
        assert not wrap_model(loaded.model, loaded.processor, name="x").model.training
