"""Decoding a whole batch at once, for measurements."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sarguard.decoding.loop import decode_rows
from sarguard.decoding.row import Row
from sarguard.decoding.sampling import Sampling
from sarguard.errors import ConfigurationError, NonFiniteActivationError
from sarguard.models.loading import LoadedModel
from sarguard.steering.dose import DoseSpec
from sarguard.steering.steerer import Steerer


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Hold what was decoded for one row."""

    token_ids: tuple[int, ...]
    """Answer tokens, without the token that ended it."""
    output_tokens: int
    """Tokens chosen for this row, the one that ended it among them."""
    finish_reason: Literal["stop", "length"]
    steered_positions: int
    """Positions steered on every layer for this row."""
    prefill_s: float
    total_s: float


def guarded_decode(
    loaded: LoadedModel,
    steerer: Steerer,
    inputs: Mapping[str, Any],
    *,
    alpha: float | Sequence[float] | Tensor,
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> list[Decoded]:
    """Decode an answer for every row, and prove that it was steered.

    Args:
        loaded: The model.
        steerer: Attached to that model.
        inputs: What `build_inputs` gave.
        alpha: Strength, one for all rows or one a row; above 0 and finite.
        max_new_tokens: Most tokens a row.
        sampling: How tokens are chosen; greedy if not given.

    Raises:
        ConfigurationError: A setting is out of range, or the model's generation
            config asks for speculative or cacheless decoding.
        SteeringError: An answer cannot be proven to be steered; none is returned.
    """
    rows = [
        Row(
            dose=DoseSpec.constant(strength),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
        )
        for strength in _one_a_row(alpha, inputs["input_ids"].shape[0])
    ]
    clock = _Clock()
    decode_rows(loaded, steerer, inputs, rows, after_step=clock.note)
    if any(row.ending == "unhealthy" for row in rows):
        raise NonFiniteActivationError(
            "a steered state holds NaN or infinity: lower alpha, or load the model in "
            "bfloat16 or float32"
        )
    return [_decoded(row, clock) for row in rows]


def _one_a_row(alpha: float | Sequence[float] | Tensor, rows: int) -> list[float]:
    given: list[float] = torch.as_tensor(alpha).reshape(-1).tolist()
    found = given * rows if len(given) == 1 else given
    if len(found) != rows:
        raise ConfigurationError(
            f"{len(found)} strengths for {rows} rows: give one, or one a row"
        )
    return found


def _decoded(row: Row, clock: _Clock) -> Decoded:
    return Decoded(
        token_ids=tuple(row.token_ids),
        output_tokens=row.output_tokens,
        finish_reason="stop" if row.ending == "stop" else "length",
        steered_positions=row.steered_positions,
        prefill_s=clock.first_s,
        total_s=clock.elapsed(),
    )


class _Clock:
    """Note when the first token is there."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.first_s = 0.0

    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    def note(self) -> None:
        self.first_s = self.first_s or self.elapsed()
