"""Export of a training run to the package, and its import by the next run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sarguard.reference.difference import load_difference, save_difference
from sarguard.reference.training.adapters import SCALE, Adapters
from sarguard.reference.training.lookup import LookupEncoder

DIFFERENCE = "difference.safetensors"
HEAD = "hearing_head.safetensors"
_TOWER, _PROJECTOR = "audio_tower.", "multi_modal_projector.linear."


def export(
    directory: Path,
    encoder: LookupEncoder,
    adapters: Adapters,
    vocabulary: Sequence[int],
) -> Path:
    """Write what training changed, and the CTC head that measures word errors."""
    encoder.sync_model()
    # The lookup has no attention.
    without = f"layers.{len(encoder.tower.layers) - 1}.self_attn"
    tensors: dict[str, Tensor] = {
        f"{_TOWER}{name}": value
        for name, value in encoder.tower.state_dict().items()
        if name.startswith(("layers.", "layer_norm.")) and not name.startswith(without)
    }
    tensors |= {
        f"{_PROJECTOR}{name}": value
        for name, value in encoder.projector.state_dict().items()
    }
    tensors |= adapters.tensors()
    cpu = {name: value.detach().cpu() for name, value in tensors.items()}
    path = directory / DIFFERENCE
    save_difference(path, cpu, {"lora_scale": str(SCALE)})
    encoder.save_head(directory / HEAD, vocabulary)
    return path


def load_encoder(directory: Path, encoder: LookupEncoder) -> None:
    """Load tower, lookup, projector and CTC head from an earlier run's export.

    Raises:
        ReferenceCorruptError: The difference cannot be used.
    """
    tensors, _ = load_difference(directory / DIFFERENCE)
    device = encoder.blank.device
    for prefix, part in ((_TOWER, encoder.tower), (_PROJECTOR, encoder.projector)):
        state = {
            name.removeprefix(prefix): value.float().to(device)
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        part.load_state_dict({**part.state_dict(), **state})
    encoder.load_head(directory / HEAD)


def load_adapters(directory: Path, adapters: Adapters) -> None:
    """Load the adapters from an earlier run's export.

    Raises:
        ReferenceCorruptError: The difference cannot be used.
    """
    tensors, _ = load_difference(directory / DIFFERENCE)
    with torch.no_grad():
        adapters.load(tensors)
