"""Sparing the output layer the positions whose logits nobody reads.

A forward pass over a prompt gives logits for each of its tokens; an answer needs those
of the last, and reading a request's clean states needs none. `logits_to_keep` says so
in some families and in others does not exist, so the layer's input is cut instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sarguard.models.layers import named_module
from sarguard.models.untyped import PretrainedModel


@contextmanager
def last_positions(model: PretrainedModel, count: int) -> Iterator[None]:
    """Give the output layer the last positions of each row alone, inside the block.

    A layer that is not a plain one, as a quantised one is not, may be unable to run on
    nothing: it gets one position at the least. A model that does not say which layer
    is its output layer runs as it is.

    Args:
        model: The model, called inside the block.
        count: Positions of each row that logits are wanted of; 0 or more.
    """
    layer = named_module(model, "get_output_embeddings")
    if layer is None:
        yield
        return
    kept = count if type(layer) is nn.Linear else max(1, count)

    def cut(_layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        if not isinstance(hidden, Tensor) or hidden.dim() != 3:
            return None
        return (hidden[:, max(0, hidden.shape[1] - kept) :], *args[1:])

    handle = layer.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()
