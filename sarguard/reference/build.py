"""The reference model, built from its bases: Whisper's encoder, SmolLM2 as Qwen2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sarguard.reference.bases import SMOLLM2, WHISPER
from sarguard.reference.ct2 import encoder_layers, read_ct2, whisper_encoder_state
from sarguard.reference.difference import apply_difference
from sarguard.reference.gguf_text import Array, TextBase, read_gguf
from sarguard.reference.lookup import pad_feed_forward
from sarguard.reference.tokenizer import (
    AUDIO,
    AUDIO_TOKENS,
    MEL_BINS,
    build_processor,
    build_tokenizer,
)

if TYPE_CHECKING:
    import torch
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
    )

BUILDER_VERSION = "2"
"""Part of the cache's key: raise it when the same bases give another checkpoint."""

_WHISPER_HEAD_WIDTH = 64
_PROJECTOR_STD = 0.02
_BIASED = ("q_proj.weight", "k_proj.weight", "v_proj.weight")


def build_untrained(
    bases_dir: Path,
) -> tuple[Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor]:
    """Return the untrained model, float32 in eval mode, and its processor.

    Args:
        bases_dir: directory from `assemble.ensure_bases`.

    Raises:
        ReferenceCorruptError: a base cannot be read.
    """
    text = read_gguf(bases_dir / SMOLLM2.file)
    audio = read_ct2(bases_dir / WHISPER.file)
    encoder = whisper_encoder_state(audio)
    tokenizer = build_tokenizer(text.vocabulary, text.geometry.max_position_embeddings)
    config = _config(text, encoder, encoder_layers(audio), tokenizer)
    state = _language_state(text) | {
        f"model.audio_tower.{name}": value for name, value in encoder.items()
    }
    width = encoder["embed_positions.weight"].shape[1]
    state |= _projector_state(width, text.geometry.hidden_size)
    return _model(config, state, tokenizer), build_processor(tokenizer)


def build_model(
    bases_dir: Path, difference: Path
) -> tuple[Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor]:
    """Return the trained model: the untrained one with the difference applied."""
    model, processor = build_untrained(bases_dir)
    apply_difference(model, difference)
    pad_feed_forward(model)
    return model, processor


def _model(
    config: Qwen2AudioConfig,
    state: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerFast,
) -> Qwen2AudioForConditionalGeneration:
    from transformers import GenerationConfig, Qwen2AudioForConditionalGeneration

    from sarguard.models.transformers_api import without_initialisation

    with without_initialisation():
        model: Any = Qwen2AudioForConditionalGeneration(config)
    model.load_state_dict(state, strict=True, assign=True)
    generation_class: Any = GenerationConfig
    model.generation_config = generation_class(
        do_sample=False, **_special_ids(tokenizer)
    )
    built: Qwen2AudioForConditionalGeneration = model.eval()
    return built


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names}


def _config(
    text: TextBase,
    encoder: dict[str, torch.Tensor],
    layers: int,
    tokenizer: PreTrainedTokenizerFast,
) -> Qwen2AudioConfig:
    from transformers import Qwen2AudioConfig

    geometry = text.geometry
    special = _special_ids(tokenizer)
    config_class: Any = Qwen2AudioConfig
    width = encoder["embed_positions.weight"].shape[1]
    config: Qwen2AudioConfig = config_class(
        text_config={
            "model_type": "qwen2",
            "hidden_size": geometry.hidden_size,
            "intermediate_size": geometry.intermediate_size,
            "num_hidden_layers": geometry.num_hidden_layers,
            "num_attention_heads": geometry.num_attention_heads,
            "num_key_value_heads": geometry.num_key_value_heads,
            "max_position_embeddings": geometry.max_position_embeddings,
            "rms_norm_eps": geometry.rms_norm_eps,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": geometry.rope_theta,
            },
            "vocab_size": len(tokenizer),
            "use_sliding_window": False,
            "tie_word_embeddings": False,
            **special,
        },
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": MEL_BINS,
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": width // _WHISPER_HEAD_WIDTH,
            "encoder_ffn_dim": encoder["layers.0.fc1.bias"].shape[0],
            "max_source_positions": encoder["embed_positions.weight"].shape[0],
        },
        audio_token_index=tokenizer.convert_tokens_to_ids(AUDIO),
        tie_word_embeddings=False,
        dtype="float32",
        architectures=["Qwen2AudioForConditionalGeneration"],
        **special,
    )
    return config


def _language_state(text: TextBase) -> dict[str, torch.Tensor]:
    import torch

    weights = dict(text.weights)
    embedding = _extend_embedding(weights.pop("embed_tokens.weight"))
    state = {
        f"model.language_model.{name}": torch.from_numpy(value)
        for name, value in weights.items()
    }
    # SmolLM2 has no biases; with zeros, Qwen2's attention computes what Llama's does.
    for name in [name for name in state if name.endswith(_BIASED)]:
        bias = torch.zeros(state[name].shape[0])
        state[name.removesuffix("weight") + "bias"] = bias
    state["model.language_model.embed_tokens.weight"] = torch.from_numpy(embedding)
    # Qwen2-Audio never ties, whatever its config says: the head needs its own copy.
    state["lm_head.weight"] = torch.from_numpy(embedding.copy())
    return state


def _extend_embedding(embedding: Array) -> Array:
    """Append one mean row for each audio token."""
    total = np.zeros(embedding.shape[1], np.float64)
    # Row by row: numpy's own order of additions, and so the bits, may vary.
    for row in embedding:
        total += row
    mean = (total / len(embedding)).astype(np.float32)
    return np.concatenate([embedding, np.tile(mean, (len(AUDIO_TOKENS), 1))])


def _projector_state(width: int, hidden: int) -> dict[str, torch.Tensor]:
    import torch

    # numpy guarantees the legacy generator's stream; torch's may change.
    noise = np.random.RandomState(0).standard_normal((hidden, width))
    weight = (_PROJECTOR_STD * noise).astype(np.float32)
    return {
        "model.multi_modal_projector.linear.weight": torch.from_numpy(weight),
        "model.multi_modal_projector.linear.bias": torch.zeros(hidden),
    }
