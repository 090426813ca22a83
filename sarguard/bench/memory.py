"""The most memory that tensors hold at a time while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(device: torch.device, act: Callable[[], object]) -> int:
    """Return the bytes that tensors made by an action hold at most.

    On a GPU its allocator is asked; elsewhere each operation's outputs are counted for
    as long as they live, which is exact and the same on a busy machine.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before: int = torch.cuda.memory_allocated(device)
        act()
        most: int = torch.cuda.max_memory_allocated(device)
        return most - before
    counting = _Counting()
    with counting:
        act()
    return counting.most


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of storages from the operation that made them to their end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        given = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            # A view of what was given is nothing new.
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage(), given)
        return output

    def _note(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or place in given or place in self._known:
            return
        self._known.add(place)
        self._held += size
        self.most = max(self.most, self._held)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._held -= size
