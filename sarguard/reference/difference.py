"""What training changed: saved to disk, and applied to the base model.

A difference is one safetensors file with metadata and three kinds of tensors:

* `audio_tower.<parameter>`: replaces the encoder's parameter, float16; those of one
  layer more than the base has are the lookup (`sarguard.reference.lookup`);
* `multi_modal_projector.<parameter>`: replaces the projector's, float32;
* `language_model.<module>.lora_A` (r, in) and `.lora_B` (out, r), float16: added
  to the module's weight as W + scale * B @ A.

Merging gives the same bits on every machine: float64, elementwise operations in a
fixed order, no BLAS. What a difference does not name stays as it is in the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sarguard.errors import ReferenceCorruptError
from sarguard.reference.bases import bases_digest
from sarguard.reference.lookup import append_lookup

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2AudioForConditionalGeneration

DIFFERENCE_FORMAT = "sarguard-difference-1"

ALIGNING_RANKS = "aligning_ranks"
"""Metadata: how many ranks of the LoRA, the first ones, aligned the text model."""

_AUDIO, _PROJECTOR, _TEXT = "audio_tower.", "multi_modal_projector.", "language_model."
_LORA_A, _LORA_B = ".lora_A", ".lora_B"
_BLOCK_ROWS = 32


def save_difference(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write a difference, cast to the dtypes of the format.

    Args:
        path: file to write.
        tensors: by the names given in the module's docstring, any float dtype.
        metadata: must hold "lora_scale" (a number as text) where there is a LoRA, and
            may hold "aligning_ranks"; "format" and "bases" are filled in; anything else
            is kept as a note.

    Raises:
        ValueError: a name, a shape, a value or the scale does not fit the format.
    """
    from safetensors.torch import save_file

    stamped = {**metadata, "format": DIFFERENCE_FORMAT, "bases": bases_digest()}
    # Cast first: a float32 that is finite may be infinity in float16.
    cast = {name: _cast(name, tensor) for name, tensor in sorted(tensors.items())}
    problem = _problem(cast, stamped)
    if problem:
        raise ValueError(f"This is not a difference that can be saved: {problem}.")
    save_file(cast, path, metadata=stamped)


def load_difference(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read and check a difference; return its tensors and metadata.

    Raises:
        ReferenceCorruptError: the file is missing, damaged or for other bases.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ReferenceCorruptError(
            f"The trained difference {path} cannot be read: {error}. "
            "Reinstall sarguard to get it back."
        ) from error
    problem = _problem(tensors, metadata)
    if problem:
        raise ReferenceCorruptError(
            f"The trained difference {path} does not fit this version: {problem}. "
            "Reinstall sarguard, or train it again."
        )
    return tensors, metadata


def apply_difference(model: Qwen2AudioForConditionalGeneration, path: Path) -> None:
    """Change a float32 base model in place by a saved difference.

    Raises:
        ReferenceCorruptError: the file is damaged or names what the model lacks.
        ValueError: a weight that a LoRA is merged into is not float32.
    """
    tensors, metadata = load_difference(path)
    # Before the parameters are listed: the lookup's are among those to replace.
    _append_lookup_layer(model, tensors)
    parameters = dict(model.model.named_parameters())
    for name, tensor in tensors.items():
        # Merged with its A.
        if name.endswith(_LORA_B):
            continue
        if name.endswith(_LORA_A):
            module = name.removesuffix(_LORA_A)
            weight = _parameter(parameters, f"{module}.weight")
            lora_b = tensors[module + _LORA_B]
            _merge(weight, tensor, lora_b, float(metadata["lora_scale"]))
        else:
            _replace(_parameter(parameters, name), tensor, name)


def apply_alignment(model: Qwen2AudioForConditionalGeneration, path: Path) -> None:
    """Align a float32 base model's text model in place; it hears nothing by that.

    The alignment is the first ranks of a difference's LoRA: the metadata say how many.
    Where they say nothing, the text model was not aligned and stays as it is.

    Raises:
        ReferenceCorruptError: the file is damaged or names what the model lacks.
        ValueError: a weight that a LoRA is merged into is not float32.
    """
    tensors, metadata = load_difference(path)
    ranks = int(metadata.get(ALIGNING_RANKS, 0))
    if not ranks:
        return
    parameters = dict(model.model.named_parameters())
    scale = float(metadata["lora_scale"])
    for name, lora_a in tensors.items():
        if name.endswith(_LORA_A):
            module = name.removesuffix(_LORA_A)
            weight = _parameter(parameters, f"{module}.weight")
            lora_b = tensors[module + _LORA_B]
            _merge(weight, lora_a[:ranks], lora_b[:, :ranks], scale)


def merged_weight(
    weight: NDArray[np.float32],
    lora_a: NDArray[Any],
    lora_b: NDArray[Any],
    scale: float,
) -> NDArray[np.float32]:
    """Return float32(weight + scale * lora_b @ lora_a), bit-identical everywhere.

    Args:
        weight: (out, in) float32.
        lora_a: (r, in), lora_b: (out, r).
        scale: the LoRA's scale.
    """
    rows_a, merged = lora_a.astype(np.float64), np.empty_like(weight)
    # Blocks of rows keep the float64 accumulator in the CPU cache.
    for start in range(0, len(weight), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        columns = lora_b[block].astype(np.float64)
        total = np.zeros((len(columns), weight.shape[1]))
        product = np.empty_like(total)
        # Rank by rank: a matrix product of BLAS adds up in an order that depends on the
        # library and the processor, and its last bits with it.
        for rank, row in enumerate(rows_a):
            np.multiply(columns[:, rank, None], row, out=product)
            np.add(total, product, out=total)
        np.multiply(total, scale, out=total)
        np.add(total, weight[block], out=total)
        # The one place where anything is rounded to float32.
        merged[block] = total
    return merged


def _append_lookup_layer(
    model: Qwen2AudioForConditionalGeneration, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Append the lookup layer where a difference has one and the model does not yet."""
    layers: Any = model.model.audio_tower.layers
    bias = tensors.get(f"{_AUDIO}layers.{len(layers)}.fc1.bias")
    if bias is not None:
        append_lookup(model, len(bias))


def _merge(
    weight: torch.nn.Parameter, lora_a: torch.Tensor, lora_b: torch.Tensor, scale: float
) -> None:
    import torch

    if weight.dtype != torch.float32:
        raise ValueError(
            f"A difference is merged into float32 weights; this model's are "
            f"{weight.dtype}. Build it in float32 and cast it afterwards."
        )
    shape = (lora_b.shape[0], lora_a.shape[1])
    if tuple(weight.shape) != shape:
        raise ReferenceCorruptError(
            f"The difference holds a LoRA of shape {shape} for a weight of shape "
            f"{tuple(weight.shape)}; it was trained on another model."
        )
    # Always on the CPU, in numpy: the bits must not depend on a device.
    merged = merged_weight(
        weight.detach().cpu().numpy(), lora_a.numpy(), lora_b.numpy(), scale
    )
    with torch.no_grad():
        weight.copy_(torch.from_numpy(merged))


def _replace(parameter: torch.nn.Parameter, value: torch.Tensor, name: str) -> None:
    import torch

    if parameter.shape != value.shape:
        raise ReferenceCorruptError(
            f"The difference holds {name} of shape {tuple(value.shape)}, the model's "
            f"is {tuple(parameter.shape)}; it was trained on another model."
        )
    with torch.no_grad():
        parameter.copy_(value)


def _parameter(
    parameters: Mapping[str, torch.nn.Parameter], name: str
) -> torch.nn.Parameter:
    if name not in parameters:
        raise ReferenceCorruptError(
            f"The difference changes {name}, which the model does not have; it was "
            "trained on another model."
        )
    return parameters[name]


def _cast(name: str, tensor: torch.Tensor) -> torch.Tensor:
    import torch

    dtype = torch.float32 if name.startswith(_PROJECTOR) else torch.float16
    return tensor.detach().to("cpu", dtype).contiguous()


def _problem(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> str | None:
    """Return why these tensors are not a difference, or None if they are."""
    if metadata.get("format") != DIFFERENCE_FORMAT:
        return f"its format is {metadata.get('format')!r}, not {DIFFERENCE_FORMAT!r}"
    if metadata.get("bases") != bases_digest():
        return "it was trained on other base weights"
    for name, tensor in tensors.items():
        problem = _tensor_problem(name, tensor, tensors)
        if problem:
            return problem
    if any(name.endswith(_LORA_A) for name in tensors):
        return _scale_problem(metadata.get("lora_scale"))
    return None


def _tensor_problem(
    name: str, tensor: torch.Tensor, tensors: Mapping[str, torch.Tensor]
) -> str | None:
    if not bool(tensor.isfinite().all()):
        return f"{name} holds values that are not finite in {tensor.dtype}"
    if name.startswith((_AUDIO, _PROJECTOR)):
        return None
    module, dot, part = name.rpartition(".")
    if not name.startswith(_TEXT) or part not in ("lora_A", "lora_B"):
        return f"{name!r} is not a name that the format knows"
    pair = [tensors.get(f"{module}{dot}{half}") for half in ("lora_A", "lora_B")]
    if pair[0] is None or pair[1] is None:
        return f"{module} has only one of lora_A and lora_B"
    if pair[0].ndim != 2 or pair[1].ndim != 2 or pair[0].shape[0] != pair[1].shape[1]:
        return f"lora_A and lora_B of {module} do not share a rank"
    return None


def _scale_problem(scale: str | None) -> str | None:
    try:
        finite = scale is not None and bool(np.isfinite(float(scale)))
    except ValueError:
        finite = False
    return None if finite else f"its lora_scale is {scale!r}, not a number"
