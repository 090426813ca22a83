from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sarguard.errors import UnsupportedModelError
from sarguard.models.layers import find_decoder_layers
from tests import tiny


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.Linear(width, width)
        self.input_layernorm = nn.LayerNorm(width)


class Stack(nn.Module):
    """Look like a text model: embeddings, blocks, a final norm."""

    def __init__(self, layers: int, width: int, *, embeds: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        if embeds:
            self.embed_tokens = nn.Embedding(4, width)


class Assembly(nn.Module):
    """Hold parts under names of their own, with a config that describes the text."""

    def __init__(self, *, layers: int, width: int, **parts: nn.Module) -> None:
        super().__init__()
        self.config: Any = SimpleNamespace(
            num_hidden_layers=layers, hidden_size=width, is_encoder_decoder=False
        )
        for name, part in parts.items():
            self.add_module(name, part)


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_the_text_decoder_of_a_family_is_found(family: str) -> None:
    loaded = tiny.shared(family)
    found = find_decoder_layers(loaded.model)
    assert found.path == "model.language_model.layers"
    assert found.layers == tuple(loaded.model.model.language_model.layers)
    assert found.owner is loaded.model.model.language_model
    assert found.backbone is loaded.model.model
    assert found.root is loaded.model
    assert (len(found), found.hidden_size) == (3, 64)


def test_an_audio_tower_of_the_same_shape_is_not_mistaken_for_it() -> None:
    model = Assembly(
        layers=2,
        width=8,
        audio_tower=Stack(2, 8, embeds=False),
        language_model=Stack(2, 8),
    )
    assert find_decoder_layers(model).path == "language_model.layers"


@pytest.mark.parametrize(
    ("outer", "path"),
    [
        ("llm", "llm.model.layers"),
        ("llama_model", "llama_model.model.layers"),
        ("thinker", "thinker.model.layers"),
    ],
)
def test_other_layouts_are_found(outer: str, path: str) -> None:
    inner = Assembly(layers=2, width=8, model=Stack(2, 8))
    parts: dict[str, nn.Module] = {outer: inner, "talker": Stack(2, 8)}
    model = Assembly(layers=2, width=8, apm=Stack(2, 8, embeds=False), **parts)
    assert find_decoder_layers(model).path == path


def test_a_voxtral_is_looked_into_without_its_processor() -> None:
    small = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.VoxtralConfig(
        text_config={**small, "model_type": "llama", "vocab_size": 50},
        audio_config={**small, "num_mel_bins": 80},
        audio_token_id=3,
    )
    model = transformers.VoxtralForConditionalGeneration(config)
    found = find_decoder_layers(model)
    assert found.path == "model.language_model.layers"
    assert len(found) == 2


def test_a_text_only_model_has_layers_too() -> None:
    config = transformers.LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    assert find_decoder_layers(transformers.LlamaForCausalLM(config)).path == (
        "model.layers"
    )


def test_a_tie_is_an_error() -> None:
    model = Assembly(layers=2, width=8, first=Stack(2, 8), second=Stack(2, 8))
    with pytest.raises(UnsupportedModelError, match=r"equally well.*decoder_layers="):
        find_decoder_layers(model)


def test_a_tie_is_settled_by_name() -> None:
    model = Assembly(layers=2, width=8, first=Stack(2, 8), second=Stack(2, 8))
    found = find_decoder_layers(model, decoder_layers="second.layers")
    assert found.layers == tuple(model.second.layers)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(("layers", "width"), [(3, 8), (2, 16)])
def test_a_disagreement_with_the_config_is_an_error(layers: int, width: int) -> None:
    model = Assembly(layers=layers, width=width, language_model=Stack(2, 8))
    with pytest.raises(UnsupportedModelError, match="2 layers of width 8"):
        find_decoder_layers(model)


def test_a_model_of_towers_alone_is_an_error() -> None:
    model = Assembly(layers=2, width=8, audio_tower=Stack(2, 8, embeds=False))
    with pytest.raises(UnsupportedModelError, match=r"audio_tower\.layers \(score -"):
        find_decoder_layers(model)


def test_a_model_without_blocks_is_an_error() -> None:
    model = Assembly(layers=2, width=8, head=nn.Linear(8, 8))
    with pytest.raises(UnsupportedModelError, match="no list of attention blocks"):
        find_decoder_layers(model)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.nothing", "is not in"),
        ("model.language_model.norm", "is a Qwen2RMSNorm"),
        ("model.language_model", "is a Qwen2Model"),
    ],
)
def test_a_wrong_path_is_an_error(path: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        find_decoder_layers(tiny.shared().model, decoder_layers=path)


def test_an_encoder_decoder_is_an_error() -> None:
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
    with torch.device("meta"):
        model = transformers.WhisperForConditionalGeneration(config)
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        find_decoder_layers(model)
