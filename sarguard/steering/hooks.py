"""What is hung on the model; classes, so that they name themselves when inspected.

Steering counts, compares and updates in place, which a compiler must not freeze into
a graph: where torch.compile traces a hook, it is told to leave and run it as it is.
Strengths then change without a recompile, and receipts count compiled steps too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sarguard.models.untyped import LayerOutput


class BeginHook:
    """Tell the steerer that a forward pass of the text decoder begins."""

    __slots__ = ("_begin", "_uncompiled")

    def __init__(self, begin: Callable[..., None]) -> None:
        self._begin = begin
        self._uncompiled = torch.compiler.disable(begin)  # type: ignore[no-untyped-call]

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if torch.compiler.is_compiling():
            self._uncompiled(module, args, kwargs)
        else:
            self._begin(module, args, kwargs)


class LayerHook:
    """Hand one layer's output to the steerer."""

    __slots__ = ("_index", "_steer", "_uncompiled")

    def __init__(
        self, index: int, steer: Callable[[int, LayerOutput], LayerOutput]
    ) -> None:
        self._index = index
        self._steer = steer
        self._uncompiled = torch.compiler.disable(steer)  # type: ignore[no-untyped-call]

    def __call__(
        self, _module: nn.Module, _args: object, output: LayerOutput
    ) -> LayerOutput:
        if torch.compiler.is_compiling():
            return self._uncompiled(self._index, output)
        return self._steer(self._index, output)
