"""Values as callers give them by mistake, of every common type."""

from __future__ import annotations

import json
import math
import uuid
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sarguard.types import Outcome, Turn

CUT = json.loads('"Hello \\ud83d"')
"""What JavaScript's slice() leaves of an emoji."""
NAME = uuid.UUID("12345678-1234-5678-1234-567812345678")

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**63, -(2**63), 10**30, 10**400),
    *(0.0, 0.5, 1.0, -0.5, math.nan, math.inf, -math.inf, 1e-320, 1e300),
    *("", " ", "5", "0.5", "-3", "nan", "a\0b", CUT, "é", "x" * 1_000_000),
    *("maximum", "strict", "permissive", "de", "balanced", "../..", "\u202e"),
    *(b"", b"5", bytearray(b"RIFF"), memoryview(b"abc")),
    *([], [1], ["a"], [""], [None], ["a", 5], (), (1, 2), {"a"}, {}, {"type": "x"}),
    *({1: 2}, {"type": "object"}, object(), print, Path("/tmp"), NAME, 1j),
    *(np.float32(0.5), np.float32("nan"), np.int64(3), np.float64(2), np.bool_(1)),
    *(np.array([1.0, 2.0]), np.array(3), np.zeros(8_000, np.float32)),
    *(torch.tensor(2), torch.tensor([1.0]), Decimal("0.5"), Fraction(1, 3)),
    *([Turn(role="user", text="Hi.")], Turn(role="user", text="Hi."), int, Outcome),
)
