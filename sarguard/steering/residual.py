"""The residual stream that a decoder layer hands on."""

from __future__ import annotations

import torch
from torch import Tensor

from sarguard.errors import UnsupportedModelError
from sarguard.models.untyped import LayerOutput


def read_stream(output: LayerOutput, streams: int = 1) -> Tensor:
    """Return a layer's hidden states, shape (rows, positions, width).

    Args:
        output: What the layer returned.
        streams: Parallel streams it hands on (`DecoderLayers.streams`); where there
            are several, shape (streams, rows, positions, width), the first is read.

    Raises:
        UnsupportedModelError: The layer hands on something else.
    """
    hidden = output[0] if isinstance(output, (tuple, list)) else output
    if isinstance(hidden, Tensor) and not _has_twin(output):
        if streams == 1 and hidden.dim() == 3:
            return hidden
        if streams > 1 and hidden.dim() == 4 and hidden.shape[0] == streams:
            return hidden[0]
    found = getattr(hidden, "shape", type(hidden).__name__)
    raise UnsupportedModelError(
        f"a decoder layer returned {found}: only layers that return the whole residual "
        f"as (rows, positions, width), {streams} stream(s) of it, can be steered"
    )


def write_stream(output: LayerOutput, hidden: Tensor) -> LayerOutput:
    """Return a layer's output with other hidden states, as `read_stream` reads it."""
    if isinstance(output, tuple):
        return (_among_others(output[0], hidden), *output[1:])
    if isinstance(output, list):
        return [_among_others(output[0], hidden), *output[1:]]
    return _among_others(output, hidden)


def _among_others(given: Tensor, hidden: Tensor) -> Tensor:
    if given.dim() == hidden.dim():
        return hidden
    return torch.cat([hidden[None], given[1:]])


def _has_twin(output: LayerOutput) -> bool:
    # Two tensors of one shape are a residual and what is to be added to it: half of
    # the state, which a vector for the whole state would push wrongly.
    if not isinstance(output, (tuple, list)) or len(output) < 2:
        return False
    return isinstance(output[1], Tensor) and output[1].shape == output[0].shape
