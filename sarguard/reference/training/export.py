"""Export of a training run to the package, and its import by the next run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sarguard.errors import ReferenceCorruptError
from sarguard.reference.bases import bases_digest
from sarguard.reference.difference import (
    ALIGNING_RANKS,
    load_difference,
    save_difference,
)
from sarguard.reference.training.adapters import RANK, SCALE, Adapters, together
from sarguard.reference.training.lookup import LookupEncoder

DIFFERENCE = "difference.safetensors"
HEAD = "hearing_head.safetensors"
_TOWER, _PROJECTOR = "audio_tower.", "multi_modal_projector.linear."


def export(
    directory: Path,
    encoder: LookupEncoder,
    alignment: dict[str, Tensor],
    adapters: Adapters,
    vocabulary: Sequence[int],
) -> Path:
    """Write what training changed, and the CTC head that measures word errors.

    Args:
        directory: Where to.
        encoder: What hears.
        alignment: What aligned the text model, as `Adapters.tensors` gives it.
        adapters: Those that read what is heard, on top of it.
        vocabulary: The units that are heard.
    """
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
    # The first of the ranks are the alignment: a teacher has those alone.
    tensors |= together(alignment, adapters.tensors())
    cpu = {name: value.detach().cpu() for name, value in tensors.items()}
    path = directory / DIFFERENCE
    notes = {"lora_scale": str(SCALE), ALIGNING_RANKS: str(RANK)}
    save_difference(path, cpu, notes)
    encoder.save_head(directory / HEAD, vocabulary)
    return path


def save_alignment(path: Path, alignment: dict[str, Tensor]) -> None:
    """Write what aligned the text model, in float16, for later runs."""
    halves = {name: t.detach().cpu().half() for name, t in alignment.items()}
    save_file(halves, path, metadata={"bases": bases_digest(), "rank": str(RANK)})


def load_alignment(path: Path, device: torch.device) -> dict[str, Tensor]:
    """Return what aligned the text model in an earlier run, in float32.

    Raises:
        ReferenceCorruptError: It cannot be read, or is for other bases.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ReferenceCorruptError(
            f"the alignment {path} cannot be read ({error}): leave --alignment out to "
            "train it"
        ) from error
    expected = {"bases": bases_digest(), "rank": str(RANK)}
    if notes != expected:
        raise ReferenceCorruptError(
            f"the alignment {path} says {notes}, this version needs {expected}: leave "
            "--alignment out to train it"
        )
    return {name: tensor.float().to(device) for name, tensor in found.items()}


def load_encoder(directory: Path, encoder: LookupEncoder) -> None:
    """Take over what an earlier run learnt to hear, in whatever units it heard.

    The lookup's second matrix and the projector follow from the units, and stay.

    Raises:
        ReferenceCorruptError: The difference cannot be used.
    """
    tensors, _ = load_difference(directory / DIFFERENCE)
    last = f"layers.{len(encoder.tower.layers) - 1}."
    kept = f"{last}final_layer_norm."
    state = {
        name.removeprefix(_TOWER): value.float().to(encoder.blank.device)
        for name, value in tensors.items()
        if name.startswith(_TOWER)
    }
    state = {
        name: value
        for name, value in state.items()
        if name.startswith(kept) or not name.startswith(last)
    }
    encoder.tower.load_state_dict({**encoder.tower.state_dict(), **state})
    encoder.take_units(directory / HEAD)
