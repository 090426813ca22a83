"""The residual stream that a decoder layer hands on."""

from __future__ import annotations

from torch import Tensor

from sarguard.errors import UnsupportedModelError
from sarguard.models.untyped import LayerOutput


def read_stream(output: LayerOutput) -> Tensor:
    """Return a layer's hidden states, shape (rows, positions, width).

    Raises:
        UnsupportedModelError: The layer hands on something else.
    """
    hidden = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(hidden, Tensor) or hidden.dim() != 3:
        found = getattr(hidden, "shape", type(hidden).__name__)
        raise UnsupportedModelError(
            f"a decoder layer returned {found}: only layers that return (rows, "
            "positions, width) can be steered"
        )
    return hidden


def write_stream(output: LayerOutput, hidden: Tensor) -> LayerOutput:
    """Return a layer's output with other hidden states."""
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    if isinstance(output, list):
        return [hidden, *output[1:]]
    return hidden
