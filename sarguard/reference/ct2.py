"""Read a CTranslate2 `model.bin` and map a Whisper encoder onto Qwen2-Audio's.

Layout, little endian: u32 version, name of the spec, u32 revision, u32 count,
then per variable its name, u8 rank, u32 per dimension, u8 dtype, u32 bytes and
the bytes themselves; then u32 count of aliases, each two names. A name is a u16
length and that many bytes, the last of them zero.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sarguard.errors import ReferenceCorruptError

if TYPE_CHECKING:
    import torch

Variables = dict[str, NDArray[Any]]

_VERSION = 6
_DTYPES: dict[int, type[np.generic]] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
}
_MAX_RANK = 8


class _Cursor:
    """Position in a file's bytes that never moves past their end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.offset = 0

    def take(self, count: int, what: str) -> bytes:
        end = self.offset + count
        if end > len(self.data):
            raise self.broken(
                f"{what} needs {count} bytes at offset {self.offset}, "
                f"but the file ends at {len(self.data)}"
            )
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def number(self, code: str, what: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize(code), what))
        return int(value)

    def name(self, what: str) -> str:
        raw = self.take(self.number("H", what), what)
        if not raw.endswith(b"\0") or not raw.isascii():
            raise self.broken(f"{what} is {raw[:40]!r}, not a name ending in zero")
        return raw[:-1].decode("ascii")

    def broken(self, found: str) -> ReferenceCorruptError:
        return ReferenceCorruptError(
            f"{self.path} is not a CTranslate2 model that can be read: {found}. "
            "Remove the file and let it be fetched again."
        )


def read_ct2(path: Path) -> Variables:
    """Return every variable of a CTranslate2 model file by its name.

    Raises:
        ReferenceCorruptError: the file is truncated, of another format or version.
    """
    cursor = _Cursor(path)
    version = cursor.number("I", "the version")
    if version != _VERSION:
        raise cursor.broken(f"its version is {version}, expected {_VERSION}")
    cursor.name("the name of the spec")
    cursor.number("I", "the revision")
    variables: Variables = {}
    for _ in range(cursor.number("I", "the count of variables")):
        name = cursor.name("a variable's name")
        variables[name] = _read_variable(cursor, name)
    for _ in range(cursor.number("I", "the count of aliases")):
        alias, target = cursor.name("an alias"), cursor.name("an alias's target")
        if target not in variables:
            raise cursor.broken(f"alias {alias} names {target}, which is missing")
        variables[alias] = variables[target]
    # Anything left over means that some of it was read wrongly.
    if cursor.offset != len(cursor.data):
        raise cursor.broken(f"{len(cursor.data) - cursor.offset} bytes follow its end")
    return variables


def _read_variable(cursor: _Cursor, name: str) -> NDArray[Any]:
    rank = cursor.number("B", f"the rank of {name}")
    if rank > _MAX_RANK:
        raise cursor.broken(f"{name} has {rank} dimensions")
    shape = tuple(cursor.number("I", f"the shape of {name}") for _ in range(rank))
    code = cursor.number("B", f"the dtype of {name}")
    if code not in _DTYPES:
        raise cursor.broken(f"{name} has the unknown dtype {code}")
    # Little-endian in the file, whatever the machine.
    dtype = np.dtype(_DTYPES[code]).newbyteorder("<")
    size = cursor.number("I", f"the size of {name}")
    # Python integers: a crafted shape cannot overflow to the expected product.
    expected = dtype.itemsize
    for dimension in shape:
        expected *= dimension
    if size != expected:
        raise cursor.broken(f"{name} of shape {shape} holds {size} bytes")
    # Still in the file's dtype; `_weight` converts what is used.
    return np.frombuffer(cursor.take(size, name), dtype).reshape(shape)


def whisper_encoder_state(variables: Variables) -> dict[str, torch.Tensor]:
    """Return a Whisper encoder's weights under Qwen2AudioEncoder's names, float32.

    Raises:
        ReferenceCorruptError: a variable of the encoder is missing or quantised.
    """
    state = {
        "conv1.weight": _weight(variables, "conv1/weight"),
        "conv1.bias": _weight(variables, "conv1/bias"),
        "conv2.weight": _weight(variables, "conv2/weight"),
        "conv2.bias": _weight(variables, "conv2/bias"),
        "embed_positions.weight": _weight(variables, "position_encodings/encodings"),
        "layer_norm.weight": _weight(variables, "layer_norm/gamma"),
        "layer_norm.bias": _weight(variables, "layer_norm/beta"),
    }
    for layer in range(encoder_layers(variables)):
        state |= _layer_state(variables, layer)
    return state


def encoder_layers(variables: Variables) -> int:
    """Count the encoder's layers."""
    count = 0
    while f"encoder/layer_{count}/ffn/linear_0/weight" in variables:
        count += 1
    return count


def _layer_state(variables: Variables, layer: int) -> dict[str, torch.Tensor]:
    ours, theirs = f"layers.{layer}.", f"layer_{layer}/"
    renamed = {
        "self_attn.out_proj.weight": "self_attention/linear_1/weight",
        "self_attn.out_proj.bias": "self_attention/linear_1/bias",
        "self_attn_layer_norm.weight": "self_attention/layer_norm/gamma",
        "self_attn_layer_norm.bias": "self_attention/layer_norm/beta",
        "fc1.weight": "ffn/linear_0/weight",
        "fc1.bias": "ffn/linear_0/bias",
        "fc2.weight": "ffn/linear_1/weight",
        "fc2.bias": "ffn/linear_1/bias",
        "final_layer_norm.weight": "ffn/layer_norm/gamma",
        "final_layer_norm.bias": "ffn/layer_norm/beta",
    }
    state = {
        ours + name: _weight(variables, theirs + source)
        for name, source in renamed.items()
    }
    # Queries, keys and values are one matrix here, in this order.
    weights = _weight(variables, theirs + "self_attention/linear_0/weight").chunk(3)
    biases = _weight(variables, theirs + "self_attention/linear_0/bias").chunk(3)
    for name, weight, bias in zip("qkv", weights, biases, strict=True):
        state[f"{ours}self_attn.{name}_proj.weight"] = weight.contiguous()
        # Whisper's keys have no bias.
        if name != "k":
            state[f"{ours}self_attn.{name}_proj.bias"] = bias.contiguous()
    return state


def _weight(variables: Variables, name: str) -> torch.Tensor:
    import torch

    value = variables.get(f"encoder/{name}")
    if value is None:
        raise ReferenceCorruptError(
            f"The CTranslate2 model has no variable encoder/{name}; it is not the "
            "Whisper encoder that was expected."
        )
    if value.dtype.kind != "f":
        raise ReferenceCorruptError(
            f"encoder/{name} of the CTranslate2 model is {value.dtype}; only float16 "
            "and float32 models can be read."
        )
    return torch.from_numpy(value.astype(np.float32))
