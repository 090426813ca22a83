"""Last-token states: what every layer holds where the answer begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sarguard.errors import CalibrationError
from sarguard.models.layers import DecoderLayers
from sarguard.models.untyped import KeyValueCache, LayerOutput
from sarguard.steering.stream import read_stream


def last_states(decoder: DecoderLayers, inputs: Mapping[str, Any]) -> Tensor:
    """Return the state of every layer at the last position.

    Args:
        decoder: The layers to read.
        inputs: Left-padded keyword arguments of the backbone's forward.

    Returns:
        Float32 on the CPU, shape (layers, rows, width).
    """
    states, _ = run_and_read(decoder, inputs, use_cache=False)
    return states


def run_and_read(
    decoder: DecoderLayers, inputs: Mapping[str, Any], *, use_cache: bool
) -> tuple[Tensor, KeyValueCache]:
    """Run the backbone once and return its last-token states and its cache.

    Raises:
        CalibrationError: A layer did not run exactly once.
    """
    # Cloning one position frees the rest; `output_hidden_states` would keep every
    # position and hand back the last layer after its final norm.
    found: dict[int, Tensor] = {}
    calls = [0] * len(decoder)

    def reader(index: int) -> Callable[[nn.Module, object, LayerOutput], None]:
        def read(_module: nn.Module, _args: object, output: LayerOutput) -> None:
            found[index] = read_stream(output)[:, -1].detach().clone()
            calls[index] += 1

        return read

    with ExitStack() as stack, torch.no_grad():
        for index, layer in enumerate(decoder.layers):
            handle = layer.register_forward_hook(reader(index))
            stack.callback(handle.remove)
        output = decoder.backbone(**inputs, use_cache=use_cache)
    if any(count != 1 for count in calls):
        raise CalibrationError(
            f"the layers of {decoder.path} ran {calls} times in one forward pass: each "
            "has to run once"
        )
    states = torch.stack([found[i].float().cpu() for i in range(len(decoder))])
    return states, getattr(output, "past_key_values", None)
