"""Tiny bases in the formats of the real ones, written from scratch."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from sarguard.reference.bases import SMOLLM2, WHISPER, Base

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, CONTEXT = 64, 96, 2, 4, 2, 256
WIDTH, AUDIO_FFN, MEL_BINS, POSITIONS = 64, 96, 80, 1500
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ t", "Ġt h", "Ġth e"]
TOKENS = [
    *CONTROL,
    *sorted(ByteLevel.alphabet()),
    *(merge.replace(" ", "") for merge in MERGES),
]
_CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def write_ct2(
    path: Path, variables: Mapping[str, NDArray[Any]], version: int = 6
) -> None:
    """Write a CTranslate2 model with one alias."""
    first = next(iter(variables))
    parts = [struct.pack("<I", version), _name("WhisperSpec"), struct.pack("<I", 3)]
    parts.append(struct.pack("<I", len(variables)))
    for name, value in variables.items():
        raw = value.tobytes()
        header = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        code = struct.pack("<BI", _CODES[value.dtype.name], len(raw))
        parts += [_name(name), header, code, raw]
    parts += [struct.pack("<I", 1), _name("alias"), _name(first)]
    path.write_bytes(b"".join(parts))


def whisper_variables(layers: int = 2, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return random variables of a tiny Whisper encoder, float16."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1/weight": (WIDTH, MEL_BINS, 3),
        "conv1/bias": (WIDTH,),
        "conv2/weight": (WIDTH, WIDTH, 3),
        "conv2/bias": (WIDTH,),
        "position_encodings/encodings": (POSITIONS, WIDTH),
        "layer_norm/gamma": (WIDTH,),
        "layer_norm/beta": (WIDTH,),
    }
    for layer in range(layers):
        prefix = f"layer_{layer}/"
        shapes |= {
            prefix + "self_attention/layer_norm/gamma": (WIDTH,),
            prefix + "self_attention/layer_norm/beta": (WIDTH,),
            prefix + "self_attention/linear_0/weight": (3 * WIDTH, WIDTH),
            prefix + "self_attention/linear_0/bias": (3 * WIDTH,),
            prefix + "self_attention/linear_1/weight": (WIDTH, WIDTH),
            prefix + "self_attention/linear_1/bias": (WIDTH,),
            prefix + "ffn/layer_norm/gamma": (WIDTH,),
            prefix + "ffn/layer_norm/beta": (WIDTH,),
            prefix + "ffn/linear_0/weight": (AUDIO_FFN, WIDTH),
            prefix + "ffn/linear_0/bias": (AUDIO_FFN,),
            prefix + "ffn/linear_1/weight": (WIDTH, AUDIO_FFN),
            prefix + "ffn/linear_1/bias": (WIDTH,),
        }
    rng = np.random.default_rng(seed)
    return {
        f"encoder/{name}": (0.1 * rng.standard_normal(shape)).astype(np.float16)
        for name, shape in shapes.items()
    }


def llama_weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return a tiny Llama's weights by transformers' names."""
    key = KV_HEADS * HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens": (len(TOKENS), HIDDEN),
        "norm": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"layers.{layer}."
        shapes |= {
            prefix + "input_layernorm": (HIDDEN,),
            prefix + "self_attn.q_proj": (HIDDEN, HIDDEN),
            prefix + "self_attn.k_proj": (key, HIDDEN),
            prefix + "self_attn.v_proj": (key, HIDDEN),
            prefix + "self_attn.o_proj": (HIDDEN, HIDDEN),
            prefix + "post_attention_layernorm": (HIDDEN,),
            prefix + "mlp.gate_proj": (FFN, HIDDEN),
            prefix + "mlp.up_proj": (FFN, HIDDEN),
            prefix + "mlp.down_proj": (HIDDEN, FFN),
        }
    rng = np.random.default_rng(seed)
    return {
        f"{name}.weight": (0.2 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_gguf(
    path: Path, weights: Mapping[str, NDArray[np.float32]], architecture: str = "llama"
) -> None:
    """Write weights as llama.cpp does, rows of q and k permuted for its rotary."""
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in CONTROL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    for name, value in weights.items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        writer.add_tensor(_gguf_name(name), _permuted(value, heads) if heads else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_bases(folder: Path) -> Path:
    """Write both tiny bases under the names of the real ones."""
    write_gguf(folder / SMOLLM2.file, llama_weights())
    write_ct2(folder / WHISPER.file, whisper_variables())
    return folder


def write_wheel(folder: Path, package: str, content: bytes) -> Base:
    """Write a wheel that pip accepts, and return its pin."""
    name, member = package.replace("-", "_"), f"{package.replace('-', '_')}/data.bin"
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        archive.writestr(f"{info}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return Base(
        package=package,
        version="1.0",
        wheel=wheel.name,
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=member,
        member_bytes=len(content),
        member_sha256=hashlib.sha256(content).hexdigest(),
        file=f"{name}.bin",
        content="random bytes",
    )


def _name(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def _permuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def _gguf_name(name: str) -> str:
    kinds = {
        "embed_tokens": "token_embd",
        "norm": "output_norm",
        "input_layernorm": "attn_norm",
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    }
    path = name.split(".")
    prefix = f"blk.{path[1]}." if path[0] == "layers" else ""
    return f"{prefix}{kinds[path[-2]]}.weight"
