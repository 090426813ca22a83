"""Tiny models of families that see too, with the picture half left out.

Their processors need a package for pictures that has no build for this machine's
torch, so the real processor class is given a stand-in for that half; every line that
hears and writes the prompt is the library's own.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any
from unittest import mock

import transformers
from torch import nn

from tests.tiny import TEXT, Model, Processor, chatml, extractor, finish, tokenizer
from tests.tiny_whole import MAMBA

_SMALL_EYES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
OMNI_WORDS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "vision_start_token": "<|vision_start|>",
}
_GEMMA_WORDS = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}
_PER_LAYER = {"vocab_size_per_layer_input": 270, "hidden_size_per_layer_input": 8}


class NoPictures:
    """Stand where a processor keeps what reads pictures and films."""

    model_input_names: tuple[str, ...] = ()


@functools.cache
def _hearing_half(family: str, name: str) -> type[Any]:
    module = importlib.import_module(
        f"transformers.models.{family}.processing_{family}"
    )
    whole = getattr(module, name)

    def check(self: Processor, attribute: str, value: object) -> object:
        if isinstance(value, NoPictures):
            return NoPictures
        return whole.check_argument_for_proper_class(self, attribute, value)

    return type(name, (whole,), {"check_argument_for_proper_class": check})


def _hearing(family: str, name: str) -> Any:  # noqa: ANN401
    module = f"transformers.models.{family}.feature_extraction_{family}"
    return getattr(importlib.import_module(module), name)


def _text(layers: int, words: transformers.PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "vocab_size": len(words),
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": None,
        **TEXT,
    }


def _ids(words: transformers.PreTrainedTokenizerFast, **named: str) -> dict[str, Any]:
    return {name: words.convert_tokens_to_ids(token) for name, token in named.items()}


def qwen2_5_omni(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return the thinker of a tiny Qwen2.5-Omni."""
    words = tokenizer(**OMNI_WORDS)
    model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(
        qwen2_5_thinker(words, layers)
    )
    return finish(model, words), _omni_processor("qwen2_5_omni", words)


def qwen2_5_thinker(
    words: transformers.PreTrainedTokenizerFast, layers: int
) -> transformers.PreTrainedConfig:
    """Return the config of a tiny Qwen2.5-Omni's thinker."""
    return transformers.Qwen2_5OmniThinkerConfig(
        text_config={
            **_text(layers, words),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
            },
        },
        audio_config={
            "num_mel_bins": 80,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "output_dim": 64,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 64,
        },
        **_ids(
            words,
            audio_token_index="<|AUDIO|>",
            image_token_index="<|IMAGE|>",
            video_token_index="<|VIDEO|>",
            audio_start_token_id="<|audio_bos|>",
            vision_start_token_id="<|vision_start|>",
            audio_end_token_id="<|audio_eos|>",
        ),
    )


def qwen3_omni_moe(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return the thinker of a tiny Qwen3-Omni, a mixture of experts."""
    words = tokenizer(**OMNI_WORDS)
    model = transformers.Qwen3OmniMoeThinkerForConditionalGeneration(
        qwen3_thinker(words, layers)
    )
    return finish(model, words), _omni_processor("qwen3_omni_moe", words)


def qwen3_thinker(
    words: transformers.PreTrainedTokenizerFast, layers: int
) -> transformers.PreTrainedConfig:
    """Return the config of a tiny Qwen3-Omni's thinker."""
    return transformers.Qwen3OmniMoeThinkerConfig(
        text_config={
            **_text(layers, words),
            "head_dim": 32,
            "moe_intermediate_size": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
                "mrope_interleaved": True,
            },
        },
        audio_config={
            "num_mel_bins": 80,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "output_dim": 64,
            "downsample_hidden_size": 16,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **_ids(
            words,
            audio_token_id="<|AUDIO|>",
            image_token_id="<|IMAGE|>",
            video_token_id="<|VIDEO|>",
            audio_start_token_id="<|audio_bos|>",
            vision_start_token_id="<|vision_start|>",
        ),
    )


def _omni_processor(
    family: str, words: transformers.PreTrainedTokenizerFast
) -> Processor:
    name = {
        "qwen2_5_omni": "Qwen2_5OmniProcessor",
        "qwen3_omni_moe": "Qwen3OmniMoeProcessor",
    }[family]
    return _hearing_half(family, name)(
        NoPictures(),
        NoPictures(),
        extractor(80),
        words,
        chat_template=chatml("<|audio_bos|><|AUDIO|><|audio_eos|>"),
    )


def phi4_multimodal(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Phi-4-multimodal, whose layers hang right under the model."""
    words = tokenizer(audio_token="<|endoftext11|>", image_token="<|endoftext10|>")
    config = transformers.Phi4MultimodalConfig(
        **_text(layers, words),
        vision_config={
            **_SMALL_EYES,
            "image_size": 28,
            "crop_size": 28,
            "image_token_id": words.convert_tokens_to_ids("<|endoftext10|>"),
        },
        audio_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_blocks": 2,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 16,
            "audio_token_id": words.convert_tokens_to_ids("<|endoftext11|>"),
        },
    )
    processor = _hearing_half("phi4_multimodal", "Phi4MultimodalProcessor")(
        NoPictures(),
        _hearing("phi4_multimodal", "Phi4MultimodalFeatureExtractor")(),
        words,
        chat_template=chatml("<|endoftext11|>"),
    )
    return finish(transformers.Phi4MultimodalForCausalLM(config), words), processor


def gemma3n(*, layers: int = 4) -> tuple[Model, Processor]:
    """Return a tiny Gemma 3n: four streams, shared keys, inputs to every layer."""
    words = tokenizer(**_GEMMA_WORDS)
    config = transformers.Gemma3nConfig(
        text_config={
            **_text(layers, words),
            **_PER_LAYER,
            "head_dim": 16,
            "laurel_rank": 4,
            "vocab_size": len(words) + 256,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        },
        audio_config={
            "hidden_size": 32,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [8, 4],
            "vocab_offset": len(words) + 128,
        },
        vision_config={"hidden_size": 16, "vocab_offset": len(words)},
        **_ids(words, audio_token_id="<audio_soft_token>"),
        image_token_id=words.convert_tokens_to_ids("<image_soft_token>"),
    )
    with _no_tower("gemma3n", config.vision_config):
        model = transformers.Gemma3nForConditionalGeneration(config)
    processor = _hearing_half("gemma3n", "Gemma3nProcessor")(
        _hearing("gemma3n", "Gemma3nAudioFeatureExtractor")(),
        NoPictures(),
        words,
        chat_template=chatml("<audio_soft_token>"),
    )
    return finish(model, words), processor


def _no_tower(family: str, vision_config: object) -> Any:  # noqa: ANN401
    home = f"transformers.models.{family}.modeling_{family}.AutoModel"
    build = transformers.AutoModel.from_config

    def build_most(config: object, **options: object) -> nn.Module:
        return nn.Identity() if config is vision_config else build(config, **options)

    return mock.patch(f"{home}.from_config", build_most)


def gemma4(*, layers: int = 4) -> tuple[Model, Processor]:
    """Return a tiny Gemma 4 of the E2B kind, whose last layers share keys."""
    return _gemma4(
        layers,
        **_PER_LAYER,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * (layers // 2),
    )


def gemma4_moe(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Gemma 4 of the kind with experts."""
    return _gemma4(
        layers,
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=32,
    )


def _gemma4(layers: int, **text: object) -> tuple[Model, Processor]:
    words = tokenizer(**_GEMMA_WORDS)
    words.add_special_tokens({"additional_special_tokens": ["<|video|>"]})
    config = transformers.Gemma4Config(
        text_config={
            **_text(layers, words),
            "head_dim": 16,
            "global_head_dim": 16,
            **text,
        },
        audio_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [128, 2],
            "output_proj_dims": 32,
        },
        vision_config=None,
        audio_token_id=words.convert_tokens_to_ids("<audio_soft_token>"),
        image_token_id=words.convert_tokens_to_ids("<image_soft_token>"),
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
    )
    model = transformers.Gemma4ForConditionalGeneration(config)
    for layer in model.model.language_model.layers:
        layer.layer_scalar.fill_(0.8)
    processor = _gemma_processor("gemma4", "Gemma4", words)
    return finish(model, words), processor


def gemma4_unified(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Gemma 4 without an encoder: it hears frames of samples."""
    words = tokenizer(**_GEMMA_WORDS)
    words.add_special_tokens({"additional_special_tokens": ["<|video|>"]})
    config = transformers.Gemma4UnifiedConfig(
        text_config={**_text(layers, words), "head_dim": 16, "global_head_dim": 16},
        audio_config={},
        vision_config=None,
        audio_token_id=words.convert_tokens_to_ids("<audio_soft_token>"),
        image_token_id=words.convert_tokens_to_ids("<image_soft_token>"),
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
    )
    model = transformers.Gemma4UnifiedForConditionalGeneration(config)
    processor = _gemma_processor("gemma4_unified", "Gemma4Unified", words)
    return finish(model, words), processor


def _gemma_processor(
    family: str, name: str, words: transformers.PreTrainedTokenizerFast
) -> Processor:
    return _hearing_half(family, f"{name}Processor")(
        _hearing(family, f"{name}AudioFeatureExtractor")(),
        NoPictures(),
        words,
        NoPictures(),
        chat_template=chatml("<audio_soft_token>"),
    )


def dots3_note(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Dots 3 Note: latent attention behind an index, experts."""
    words = tokenizer("<|imgpad|>", "<|video_pad|>", "<|audio_comp_pad|>")
    config = transformers.Dots3NoteConfig(
        text_config={
            **_text(layers, words),
            "num_key_value_heads": 2,
            "moe_intermediate_size": 32,
            "shared_experts_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "head_dim": 32,
            "index_head_dim": 32,
            "index_n_heads": 2,
        },
        audio_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "downsample_hidden_size": 16,
            "adapter_input_size": 32,
            "adapter_out_dim": 64,
        },
        vision_config={
            **_SMALL_EYES,
            "adapter_in_dim": 16,
            "adapter_out_dim": 64,
            "mlp_layer_types": ["dense"],
        },
        **_ids(
            words,
            audio_token_id="<|audio_comp_pad|>",
            image_token_id="<|imgpad|>",
            video_token_id="<|video_pad|>",
        ),
    )
    processor = _hearing_half("dots3_note", "Dots3NoteProcessor")(
        NoPictures(),
        words,
        NoPictures(),
        _hearing("dots3_note", "Dots3NoteFeatureExtractor")(),
        chat_template=chatml("<|audio_comp_pad|>"),
    )
    model = transformers.Dots3NoteForConditionalGeneration(config)
    return finish(model, words), processor


def inkling(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Inkling: short convolutions with a cache of their own."""
    words = tokenizer(
        "<|unused_200054|>",
        "<|unused_200053|>",
        "<|content_image|>",
        "<|content_audio_input|>",
        "<|audio_end|>",
    )
    config = transformers.InklingConfig(
        text_config={
            **_text(layers, words),
            "head_dim": 16,
            "swa_num_attention_heads": 2,
            "swa_num_key_value_heads": 1,
            "swa_head_dim": 16,
            "d_rel": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "logits_mup_width_multiplier": 1.0,
        },
        audio_config={"mel_vocab_size": 16},
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        **_ids(
            words,
            audio_token_id="<|unused_200053|>",
            image_token_id="<|unused_200054|>",
            audio_bos_token_id="<|content_audio_input|>",
            image_bos_token_id="<|content_image|>",
        ),
    )
    processor = _hearing_half("inkling", "InklingProcessor")(
        _hearing("inkling", "InklingFeatureExtractor")(),
        NoPictures(),
        words,
        chat_template=chatml("<|unused_200053|>"),
    )
    model = transformers.InklingForConditionalGeneration(config)
    return finish(model, words), processor


def muse_spark(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Muse Spark, whose layers gate their residuals."""
    words = tokenizer(
        "<|patch|>",
        "<|image_start|>",
        "<|image_end|>",
        "<|video|>",
        "<|audio|>",
        "<|soft_audio_start|>",
        "<|soft_audio_end|>",
    )
    config = transformers.MuseSparkConfig(
        text_config={
            **_text(layers, words),
            "head_dim": 32,
            "moe_intermediate_size": 32,
            "moe_hidden_size": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "output_multiplier": 1.0,
        },
        audio_config={
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "out_hidden_size": 64,
        },
        vision_config={**_SMALL_EYES, "pos_emb_height": 4, "pos_emb_width": 4},
        out_hidden_size=64,
        projector_hidden_size=16,
        **_ids(
            words,
            audio_token_id="<|audio|>",
            image_token_id="<|patch|>",
            video_token_id="<|video|>",
        ),
    )
    processor = _hearing_half("muse_spark", "MuseSparkProcessor")(
        NoPictures(),
        NoPictures(),
        words,
        _hearing("muse_spark", "MuseSparkFeatureExtractor")(),
        chat_template=chatml("<|audio|>"),
    )
    model = transformers.MuseSparkForConditionalGeneration(config)
    return finish(model, words), processor


def nemotron_h_omni(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Nemotron-H-Omni: its language model is a whole causal model."""
    words = tokenizer("<image>", "<video>", "<so_embedding>", "<so_start>", "<so_end>")
    config = transformers.NemotronH_Omni_Reasoning_V3_Config(
        text_config={**_text(layers, words), **MAMBA, "model_type": "nemotron_h"},
        audio_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "subsampling_conv_channels": 16,
            "num_mel_bins": 128,
            "projection_hidden_size": 32,
            "projection_bias": False,
        },
        vision_config={
            **_SMALL_EYES,
            "model_type": "radio",
            "image_size": 32,
            "max_img_size": 64,
            "video_temporal_patch_size": 2,
        },
        vision_hidden_size=16,
        projector_hidden_size=16,
        **_ids(
            words,
            audio_token_id="<so_embedding>",
            image_token_id="<image>",
            video_token_id="<video>",
        ),
    )
    processor = _hearing_half(
        "nemotron_h_omni", "NemotronH_Omni_Reasoning_V3Processor"
    )(
        NoPictures(),
        NoPictures(),
        words,
        transformers.ParakeetFeatureExtractor(feature_size=128),
        chat_template=chatml("<so_embedding>"),
    )
    model = transformers.NemotronH_Omni_Reasoning_V3(config)
    return finish(model, words), processor
