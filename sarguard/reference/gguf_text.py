"""A Llama-shaped GGUF file, as the weights of a Qwen2 text model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from sarguard.errors import ReferenceCorruptError

if TYPE_CHECKING:
    from gguf import GGUFReader

Array = NDArray[np.float32]
T = TypeVar("T")

# Without an output layer: SmolLM2 ties it to its embeddings.
_TOP = {"token_embd": "embed_tokens", "output_norm": "norm"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# GGUF's token_type of a control token.
_CONTROL_TOKEN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TextGeometry:
    """Sizes of a Llama-shaped text model."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Byte-level BPE: tokens by id, merges by rank, and control tokens."""

    tokens: Sequence[str]
    merges: Sequence[str]
    control: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBase:
    """Text model as read: float32 weights under Qwen2's module names."""

    geometry: TextGeometry
    vocabulary: Vocabulary
    weights: dict[str, Array]


def read_gguf(path: Path) -> TextBase:
    """Dequantise a Llama-shaped GGUF file.

    Raises:
        ReferenceCorruptError: the file is damaged or of another architecture.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        architecture = _field(reader, "general.architecture", str)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ReferenceCorruptError(
            f"{path} cannot be read as GGUF: {error}. "
            "Remove the file and let it be fetched again."
        ) from error
    if architecture != "llama":
        raise ReferenceCorruptError(
            f"{path} holds the architecture {architecture!r}, expected 'llama'."
        )
    geometry = _geometry(reader)
    return TextBase(
        geometry=geometry,
        vocabulary=_vocabulary(reader),
        weights=_weights(reader, geometry),
    )


def _field(reader: GGUFReader, name: str, kind: type[T]) -> T:
    field = reader.get_field(name)
    value = None if field is None else field.contents()
    if not isinstance(value, kind):
        raise ReferenceCorruptError(
            f"The GGUF file's field {name!r} is {type(value).__name__}, "
            f"expected {kind.__name__}."
        )
    return value


def _geometry(reader: GGUFReader) -> TextGeometry:
    def number(name: str) -> int:
        return _field(reader, f"llama.{name}", int)

    epsilon = _field(reader, "llama.attention.layer_norm_rms_epsilon", float)
    return TextGeometry(
        hidden_size=number("embedding_length"),
        intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"),
        num_attention_heads=number("attention.head_count"),
        num_key_value_heads=number("attention.head_count_kv"),
        max_position_embeddings=number("context_length"),
        # Stored as float32: its shortest decimal is the original number.
        rms_norm_eps=float(str(np.float32(epsilon))),
        rope_theta=_field(reader, "llama.rope.freq_base", float),
    )


def _vocabulary(reader: GGUFReader) -> Vocabulary:
    tokens = _field(reader, "tokenizer.ggml.tokens", list)
    types = _field(reader, "tokenizer.ggml.token_type", list)
    return Vocabulary(
        tokens=tokens,
        merges=_field(reader, "tokenizer.ggml.merges", list),
        control=[
            token
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL_TOKEN
        ],
    )


def _weights(reader: GGUFReader, geometry: TextGeometry) -> dict[str, Array]:
    from gguf import dequantize

    heads = {
        "attn_q": geometry.num_attention_heads,
        "attn_k": geometry.num_key_value_heads,
    }
    weights: dict[str, Array] = {}
    for tensor in reader.tensors:
        name, kind = _module_path(tensor.name)
        value = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        # Queries and keys: rotary embeddings turn nothing else.
        if kind in heads:
            value = _undo_rope_permutation(value, heads[kind])
        weights[name] = value
    return weights


def _module_path(tensor: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_]+)\.weight", tensor)
    layer, kind = match.groups() if match else (None, tensor)
    path = (_TOP if layer is None else _BLOCK).get(kind)
    if path is None:
        raise ReferenceCorruptError(
            f"The GGUF file holds the tensor {tensor!r}, which has no place in a "
            "Qwen2 text model."
        )
    prefix = "" if layer is None else f"layers.{layer}."
    return f"{prefix}{path}.weight", kind


def _undo_rope_permutation(weight: Array, heads: int) -> Array:
    """Reorder rows from llama.cpp's interleaved rotary pairs to split halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)
