"""Fingerprints that tie a bundle to the model and prompt format it was made for.

They distinguish checkpoints; they do not protect against somebody who can rewrite
the weights in memory.
"""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn

from sarguard.errors import UnsupportedModelError
from sarguard.models.untyped import Processor

_SAMPLES = 4096
# These write prompts in code (mistral-common) instead of a template.
_TEMPLATES_IN_CODE = frozenset(["VoxtralProcessor"])
_PROBE = "Which prompt is this?"


def weights_digest(model: nn.Module) -> str:
    """Return a SHA-256 fingerprint of a model's weights.

    For each parameter in name order: its name, its shape, and up to 4096 evenly
    spaced elements as bfloat16, so the same checkpoint loaded in float32 and in
    bfloat16 agrees and a 7B model takes seconds.

    Raises:
        UnsupportedModelError: A parameter is offloaded and has no data to read.
    """
    digest = hashlib.sha256()
    # By name: the order of the modules is the code's, and may change.
    for name, parameter in sorted(model.named_parameters()):
        if parameter.is_meta:
            raise UnsupportedModelError(
                f"{name} is offloaded: load the model without disk or CPU offload"
            )
        digest.update(f"{name}:{tuple(parameter.shape)}\n".encode())
        digest.update(_sample(parameter))
    return digest.hexdigest()


def template_digest(processor: Processor) -> str:
    """Return the SHA-256 of the processor's chat template.

    Where code takes the place of a template, the digest is of a fixed prompt's tokens.

    Raises:
        UnsupportedModelError: The processor has no chat template.
    """
    template = getattr(processor, "chat_template", None)
    if template is None:
        template = getattr(processor.tokenizer, "chat_template", None)
    if template is None and type(processor).__name__ in _TEMPLATES_IN_CODE:
        template = _probe_tokens(processor)
    if template is None:
        raise UnsupportedModelError(
            f"{type(processor).__name__} has no chat template: save one as "
            "chat_template.jinja beside the tokenizer"
        )
    # Some processors keep several templates, by name.
    if not isinstance(template, str):
        template = json.dumps(template, sort_keys=True)
    return hashlib.sha256(template.encode()).hexdigest()


def _probe_tokens(processor: Processor) -> list[int]:
    turn = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
    written = processor.apply_chat_template([[turn]], tokenize=True, return_dict=True)
    ids: list[int] = written["input_ids"][0].tolist()
    return ids


def _sample(parameter: torch.Tensor) -> bytes:
    flat = parameter.detach().reshape(-1)
    count = min(_SAMPLES, flat.numel())
    if flat.numel() > _SAMPLES:
        steps = torch.arange(_SAMPLES, device=flat.device)
        # In whole numbers: float32 cannot name every place of a large tensor.
        flat = flat[steps * (flat.numel() - 1) // (_SAMPLES - 1)]
    values = flat[:count].to(torch.bfloat16).cpu().contiguous()
    # numpy has no bfloat16: its bits pass as integers, little-endian on every machine.
    return values.view(torch.int16).numpy().astype("<i2").tobytes()
