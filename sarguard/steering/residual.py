"""The residual stream of decoder layers: read, written, and kept at the last token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sarguard.errors import CalibrationError, UnsupportedModelError
from sarguard.models.layers import DecoderLayers
from sarguard.models.transformers_api import returned_cache
from sarguard.models.untyped import KeyValueCache, LayerOutput


def read_residual(output: LayerOutput, streams: int = 1) -> Tensor:
    """Return a layer's hidden states, shape (rows, positions, width).

    Args:
        output: What the layer returned.
        streams: Parallel streams it hands on (`DecoderLayers.streams`); where there
            are several, shape (streams, rows, positions, width), the first is read.

    Raises:
        UnsupportedModelError: The layer hands on something else.
    """
    # transformers 5 returns a tensor, whose [0] would be the first row of the batch;
    # older code, such as a model's own, returns a tuple.
    hidden = output[0] if isinstance(output, (tuple, list)) else output
    if isinstance(hidden, Tensor) and not _is_split(output):
        if streams == 1 and hidden.dim() == 3:
            return hidden
        if streams > 1 and hidden.dim() == 4 and hidden.shape[0] == streams:
            # AltUp (Gemma 3n). `DecoderLayers` is made only where stream 0 is the
            # active one; the dimensions after it are those of a plain layer.
            return hidden[0]
    found = getattr(hidden, "shape", type(hidden).__name__)
    raise UnsupportedModelError(
        f"a decoder layer returned {found}: only layers that return the whole residual "
        f"as (rows, positions, width), {streams} stream(s) of it, can be steered"
    )


def write_residual(output: LayerOutput, hidden: Tensor) -> LayerOutput:
    """Return a layer's output with other hidden states, as `read_residual` reads it."""
    if isinstance(output, tuple):
        return (_replace_first(output[0], hidden), *output[1:])
    if isinstance(output, list):
        return [_replace_first(output[0], hidden), *output[1:]]
    return _replace_first(output, hidden)


def _replace_first(given: Tensor, hidden: Tensor) -> Tensor:
    """Return all streams of a layer, the first one replaced."""
    if given.dim() == hidden.dim():
        return hidden
    return torch.cat([hidden[None], given[1:]])


def _is_split(output: LayerOutput) -> bool:
    # Two tensors of one shape are a residual and what is to be added to it: half of
    # the state, which a vector for the whole state would push wrongly.
    if not isinstance(output, (tuple, list)) or len(output) < 2:
        return False
    return isinstance(output[1], Tensor) and output[1].shape == output[0].shape


def last_states(decoder: DecoderLayers, inputs: Mapping[str, Any]) -> Tensor:
    """Return the state of every layer at the last position, where the answer begins.

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
    # The backbone without its output layer: logits of every position are the largest
    # tensor of a pass (192 of 194 MiB in a small model), and are not read.
    with capture_last_states(decoder) as captured, torch.no_grad():
        output = decoder.backbone(**inputs, use_cache=use_cache)
    cache = returned_cache(output) if use_cache else None
    return captured.stacked().float().cpu(), cache


class CapturedStates:
    """Every layer's last-token state of one forward pass."""

    def __init__(self, decoder: DecoderLayers) -> None:
        self._decoder = decoder
        self._states: dict[int, Tensor] = {}
        self._calls = [0] * len(decoder)

    def reader(self, index: int) -> Callable[[nn.Module, object, LayerOutput], None]:
        """Return the hook of one layer."""

        def read(_module: nn.Module, _args: object, output: LayerOutput) -> None:
            # Cloning one position frees the rest; `output_hidden_states` would keep
            # every position and hand back the last layer after its final norm.
            # Prompts are left padded, so the last column is every row's last token.
            residual = read_residual(output, self._decoder.streams)
            self._states[index] = residual[:, -1].detach().clone()
            self._calls[index] += 1

        return read

    def stacked(self) -> Tensor:
        """Return the states, shape (layers, rows, width), on the first layer's device.

        Raises:
            CalibrationError: A layer did not run exactly once.
        """
        if any(count != 1 for count in self._calls):
            raise CalibrationError(
                f"the layers of {self._decoder.path} ran {self._calls} times in one "
                "forward pass: each has to run once"
            )
        # The layers of one model may be on several devices.
        device = self._states[0].device
        return torch.stack(
            [self._states[i].to(device) for i in range(len(self._calls))]
        )


@contextmanager
def capture_last_states(decoder: DecoderLayers) -> Iterator[CapturedStates]:
    """Read every layer's last-token state of the forward pass inside the block."""
    captured = CapturedStates(decoder)
    with ExitStack() as stack:
        for index, layer in enumerate(decoder.layers):
            handle = layer.register_forward_hook(captured.reader(index))
            stack.callback(handle.remove)
        yield captured
