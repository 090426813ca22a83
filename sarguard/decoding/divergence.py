"""How far two next-token distributions lie apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def divergence(ours: Tensor, theirs: Tensor) -> list[float]:
    """Return each row's Jensen-Shannon divergence in bits, from 0 to 1.

    Args:
        ours: Logits, shape (rows, words).
        theirs: Other logits of the same shape.
    """
    p, q = (logits.double().softmax(dim=-1) for logits in (ours, theirs))
    middle = (p + q) / 2
    found = (_entropy(middle) - (_entropy(p) + _entropy(q)) / 2) / math.log(2)
    clamped: list[float] = found.clamp(0, 1).tolist()
    return clamped


def _entropy(shares: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1)
    return entropy
