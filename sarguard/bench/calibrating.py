"""What our calibration saves: time against the authors', and memory."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sarguard.bench.authors import (
    ARMS,
    AuthorsStates,
    authors_states,
    authors_vectors,
)
from sarguard.bench.rows import Bar, Measured, in_turn
from sarguard.calibration.recipe import BATCH_SIZE, Pair, Recipe
from sarguard.calibration.states import CalibrationStates, calibration_states
from sarguard.calibration.vectors import refusal_vectors
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.types import Turn

_PARTS = 4
"""Stretches of pairs in which the two procedures take turns."""
_MEMORY_PAIRS = 2 * BATCH_SIZE
_MIB = 2**20


def measure_calibration(loaded: LoadedModel, pairs: Sequence[Pair]) -> list[Measured]:
    """Time calibration against the authors' procedure, and compare the vectors.

    The pairs are read in four stretches, each by both procedures, who take turns.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Matched clips at the model's rate, 12 or more.
    """
    recipe = Recipe()
    size = -(-len(pairs) // _PARTS)
    parts = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    # The first pass warms caches; it is not counted.
    calibration_states(loaded, pairs[:1], recipe)
    authors_states(loaded, pairs[:1], recipe)
    our_parts, their_parts = iter(parts), iter(parts)

    def ours() -> tuple[float, CalibrationStates]:
        begin = time.perf_counter()
        states = calibration_states(loaded, next(our_parts), recipe)
        return time.perf_counter() - begin, states

    def theirs() -> tuple[float, AuthorsStates]:
        begin = time.perf_counter()
        states = authors_states(loaded, next(their_parts), recipe)
        return time.perf_counter() - begin, states

    found = in_turn(ours, theirs, repeats=len(parts))
    times = [(mine[0], other[0]) for mine, other in found]
    vectors = refusal_vectors(_joined([mine[1] for mine, _ in found]), recipe).ablated
    plain = {arm: [s for _, other in found for s in other[1][arm]] for arm in ARMS}
    difference = _largest_difference(vectors, authors_vectors(plain, recipe))
    return [
        Measured(
            what=f"calibration on {len(pairs)} pairs, the authors' time / ours",
            on=loaded.name,
            bar=Bar(sense=">=", limit=5.0),
            values=tuple(other / mine for mine, other in times),
            ours=sum(mine for mine, _ in times),
            other=sum(other for _, other in times),
            unit="s",
        ),
        Measured(
            what="largest difference of a layer's vector to the authors', by its norm",
            on=loaded.name,
            bar=Bar(sense="<=", limit=1e-4),
            values=(difference,),
        ),
    ]


def measure_memory(loaded: LoadedModel, pairs: Sequence[Pair]) -> Measured:
    """Compare the peak memory of calibration with that of one batch, bare."""
    recipe = Recipe()
    read = list(pairs[:_MEMORY_PAIRS])
    longest = sorted((p.harmful for p in read), key=len)[-BATCH_SIZE:]
    text = recipe.instruction + recipe.refusal

    def one_batch() -> None:
        turns = [[Turn(role="user", text=text, audio=(clip,))] for clip in longest]
        inputs = build_inputs(loaded, turns)
        with torch.no_grad():
            loaded.decoder.backbone(**inputs, use_cache=False)

    bare = peak_bytes(loaded.device, one_batch)
    whole = peak_bytes(loaded.device, lambda: calibration_states(loaded, read, recipe))
    return Measured(
        what=f"peak memory over the weights, calibration / one bare batch of "
        f"{len(longest)}",
        on=loaded.name,
        bar=Bar(sense="<", limit=2.0),
        values=(whole / bare,),
        ours=whole / _MIB,
        other=bare / _MIB,
        unit="MiB",
        note=f"{len(read)} pairs",
    )


def peak_bytes(device: torch.device, act: Callable[[], object]) -> int:
    """Return the most bytes that tensors made by an action hold at a time.

    On a GPU its allocator is asked; elsewhere each operation's outputs are counted for
    as long as they live, which is exact and the same on a busy machine.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before: int = torch.cuda.memory_allocated(device)
        act()
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    counting = _Counting()
    with counting:
        act()
    return counting.peak


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of storages, from the operation that made them to their end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
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
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._held -= size


def _joined(parts: Sequence[CalibrationStates]) -> CalibrationStates:
    return CalibrationStates(
        refusing=torch.cat([part.refusing for part in parts]),
        harmful=torch.cat([part.harmful for part in parts]),
        safe=torch.cat([part.safe for part in parts]),
    )


def _largest_difference(found: Tensor, expected: Tensor) -> float:
    norms = expected.norm(dim=-1)
    return float(((found - expected).norm(dim=-1) / norms).max())
