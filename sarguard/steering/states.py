"""Last-token states: what every layer holds where the answer begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sarguard.errors import CalibrationError
from sarguard.models.layers import DecoderLayers
from sarguard.models.transformers_api import returned_cache
from sarguard.models.untyped import KeyValueCache, LayerOutput
from sarguard.steering.residual import read_stream


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
        SteeringNotAppliedError: A cache was asked for, and none came.
    """
    with capturing(decoder) as found, torch.no_grad():
        output = decoder.backbone(**inputs, use_cache=use_cache)
    cache = returned_cache(output) if use_cache else None
    return found.stacked().float().cpu(), cache


class Captured:
    """Collect every layer's last-token state while `capturing`."""

    def __init__(self, decoder: DecoderLayers) -> None:
        self._decoder = decoder
        self._states: dict[int, Tensor] = {}
        self._calls = [0] * len(decoder)

    def reader(self, index: int) -> Callable[[nn.Module, object, LayerOutput], None]:
        """Return the hook of one layer."""

        def read(_module: nn.Module, _args: object, output: LayerOutput) -> None:
            # Cloning one position frees the rest; `output_hidden_states` would keep
            # every position and hand back the last layer after its final norm.
            stream = read_stream(output, self._decoder.streams)
            self._states[index] = stream[:, -1].detach().clone()
            self._calls[index] += 1

        return read

    def stacked(self) -> Tensor:
        """Return the states of one forward pass, shape (layers, rows, width).

        Raises:
            CalibrationError: A layer did not run exactly once.
        """
        if any(count != 1 for count in self._calls):
            raise CalibrationError(
                f"the layers of {self._decoder.path} ran {self._calls} times in one "
                "forward pass: each has to run once"
            )
        home = self._states[0].device
        return torch.stack([self._states[i].to(home) for i in range(len(self._calls))])


@contextmanager
def capturing(decoder: DecoderLayers) -> Iterator[Captured]:
    """Read every layer's last-token state of the forward pass inside the block."""
    found = Captured(decoder)
    with ExitStack() as stack:
        for index, layer in enumerate(decoder.layers):
            handle = layer.register_forward_hook(found.reader(index))
            stack.callback(handle.remove)
        yield found
