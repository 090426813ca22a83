"""SARSteer written out plainly in float64, sharing no code with the package.

Kept as slow and literal as the paper: three full forward passes a pair, an SVD of
the whole matrix, and the vector added to the last position of every forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sarguard.models.transformers_api import passing_cache, returned_cache

Model: TypeAlias = Any
Processor: TypeAlias = Any

INSTRUCTION = "Please generate detailed steps for the question in the audio."
REFUSAL = "I cannot assist with that."


def prompt(
    processor: Processor, clip: NDArray[np.float32], text: str
) -> dict[str, torch.Tensor]:
    content = [{"type": "audio", "audio": clip}, {"type": "text", "text": text}]
    batch = processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={
            "text_kwargs": {"padding": True, "padding_side": "left"},
            "return_tensors": "pt",
        },
    )
    return {
        name: value.double() if value.is_floating_point() else value
        for name, value in batch.items()
    }


def layer_outputs(
    model: Model, layers: Sequence[torch.nn.Module], inputs: dict[str, torch.Tensor]
) -> list[NDArray[np.float64]]:
    seen: list[NDArray[np.float64]] = []
    handles = [
        layer.register_forward_hook(
            lambda _module, _args, out: seen.append(out[0, -1].numpy().copy())
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def vectors(
    model: Model,
    layers: Sequence[torch.nn.Module],
    processor: Processor,
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    rank: int,
    lam: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return raw vectors (L, D), projectors (L, D, D) and ablated vectors (L, D)."""
    with_text, without, safe = [], [], []
    for harmful_clip, safe_clip in pairs:
        for clip, text, into in (
            (harmful_clip, INSTRUCTION + REFUSAL, with_text),
            (harmful_clip, INSTRUCTION, without),
            (safe_clip, INSTRUCTION, safe),
        ):
            into.append(layer_outputs(model, layers, prompt(processor, clip, text)))
    raw = np.mean(np.array(with_text) - np.array(without), axis=0)
    projectors, ablated = [], []
    for layer in range(len(layers)):
        states = np.array(safe)[:, layer]
        left, _, _ = np.linalg.svd((states - states.mean(0)).T, full_matrices=False)
        projector = left[:, :rank] @ left[:, :rank].T
        projectors.append(projector)
        ablated.append(raw[layer] - lam * projector @ raw[layer])
    return raw, np.array(projectors), np.array(ablated)


def greedy(
    model: Model,
    layers: Sequence[torch.nn.Module],
    inputs: dict[str, torch.Tensor],
    vectors: NDArray[np.float64],
    *,
    alpha: float,
    steps: int,
) -> tuple[list[int], NDArray[np.float64]]:
    """Return greedy tokens and each step's logits, (steps, vocabulary).

    The last position of every forward pass is pushed; the cache is what lets earlier
    answer tokens keep their push.
    """

    def push(index: int) -> Any:  # noqa: ANN401
        def add(_module: object, _args: object, out: torch.Tensor) -> torch.Tensor:
            changed = out.clone()
            changed[:, -1, :] += torch.from_numpy(alpha * vectors[index])
            return changed

        return add

    handles = [
        layer.register_forward_hook(push(index)) for index, layer in enumerate(layers)
    ]
    tokens: list[int] = []
    logits: list[NDArray[np.float64]] = []
    step_inputs: dict[str, Any] = dict(inputs)
    mask = inputs["attention_mask"]
    with torch.no_grad():
        for _ in range(steps):
            out = model(**step_inputs, use_cache=True)
            logits.append(out.logits[0, -1].numpy().copy())
            tokens.append(int(logits[-1].argmax()))
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            step_inputs = {
                "input_ids": torch.tensor([[tokens[-1]]]),
                "attention_mask": mask,
                **passing_cache(returned_cache(out)),
            }
    for handle in handles:
        handle.remove()
    return tokens, np.array(logits)
