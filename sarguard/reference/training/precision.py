"""Choose the number format that this machine multiplies fastest in."""

from __future__ import annotations

import time
from functools import cache

import torch

_SIZE, _TIMES = 1024, 8


def autocast(device: torch.device) -> torch.autocast:
    """Return a context that computes in `fastest_dtype`."""
    fast = fastest_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast is torch.bfloat16)


@cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU; on a CPU whichever of it and float32 is faster.

    Processors with matrix units for bfloat16 are several times faster in it; others
    emulate it at half the speed of float32.
    """
    if device.type != "cpu":
        return torch.bfloat16
    return min((torch.bfloat16, torch.float32), key=_seconds)


def _seconds(dtype: torch.dtype) -> float:
    one, other = torch.ones(2, _SIZE, _SIZE, dtype=dtype)
    best = float("inf")
    for _ in range(_TIMES):
        started = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - started)
    return best
