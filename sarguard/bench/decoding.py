"""What steering costs an answer, against the library's own generate().

A step is the median time from one token to the next within an answer, the check of
every token included. The vectors are random: what they say does not change what they
cost. Both arms read the same prompt and are kept from stopping early.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from sarguard.bench.rows import Bar, Measured, in_turn, medians
from sarguard.bench.synthetic import never_stopping, prompts
from sarguard.decoding import Row, decode_rows
from sarguard.decoding.readings import any_reading
from sarguard.models.loading import LoadedModel
from sarguard.steering.dose import DoseRule, DoseSpec
from sarguard.steering.gate import LinearProbe
from sarguard.steering.steerer import Steerer

BATCH = 8
_STRENGTH = 0.01

_Decode = Callable[[], "_Times"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    first: float
    step: float
    whole: float


def measure_decoding(
    loaded: LoadedModel, *, tokens: int, repeats: int
) -> list[Measured]:
    """Measure a step, the first token and a batch of mixed strengths.

    Args:
        loaded: The model, with no steerer attached.
        tokens: Answer tokens a request; 3 or more.
        repeats: Pairs of measurements.
    """
    one, many = prompts(loaded, 1), prompts(loaded, BATCH)
    mixed = [DoseSpec.constant(_STRENGTH * (1 + row)) for row in range(BATCH)]
    with never_stopping(loaded):
        constant = _compare(loaded, one, mixed[:1], tokens, repeats)
        dosed = _compare(loaded, one, [_CONDITIONED], tokens, repeats)
        batch = _compare(loaded, many, mixed, tokens, repeats)
    gpu = loaded.device.type == "cuda"
    return [
        _step(constant, loaded, gpu=gpu),
        _first(dosed, loaded),
        _whole(batch, loaded),
    ]


_CONDITIONED = DoseSpec(
    rule=DoseRule(floor=_STRENGTH, ceiling=2 * _STRENGTH, low=-1.0, high=1.0)
)
_Pairs = Sequence[tuple[_Times, _Times]]


def _compare(
    loaded: LoadedModel,
    inputs: dict[str, Tensor],
    doses: Sequence[DoseSpec],
    tokens: int,
    repeats: int,
) -> _Pairs:
    # The first pass of a shape warms caches; it is not counted.
    _guarded(loaded, inputs, doses, 3)()
    _bare(loaded, inputs, 3)()
    return in_turn(
        _guarded(loaded, inputs, doses, tokens),
        _bare(loaded, inputs, tokens),
        repeats=repeats,
    )


def _step(pairs: _Pairs, loaded: LoadedModel, *, gpu: bool) -> Measured:
    ours, other = medians([(1e3 * a.step, 1e3 * b.step) for a, b in pairs])
    return Measured(
        what="decode step, steered / bare",
        on=loaded.name,
        bar=Bar(sense="<=", limit=1.01 if gpu else 1.03),
        values=tuple(a.step / b.step for a, b in pairs),
        ours=ours,
        other=other,
    )


def _first(pairs: _Pairs, loaded: LoadedModel) -> Measured:
    ours, other = medians([(1e3 * a.first, 1e3 * b.first) for a, b in pairs])
    return Measured(
        what="first token, steered and dosed - bare, in bare decode steps",
        on=loaded.name,
        bar=Bar(sense="<=", limit=1.0, unit="step"),
        values=tuple((a.first - b.first) / b.step for a, b in pairs),
        ours=ours,
        other=other,
        note=f"a step is {1e3 * statistics.median(b.step for _, b in pairs):.2f} ms",
    )


def _whole(pairs: _Pairs, loaded: LoadedModel) -> Measured:
    rates = [(BATCH / a.whole, BATCH / b.whole) for a, b in pairs]
    ours, other = medians(rates)
    return Measured(
        what=f"throughput, batch of {BATCH} of mixed strengths / bare batch of {BATCH}",
        on=loaded.name,
        bar=Bar(sense=">=", limit=0.97),
        values=tuple(mine / theirs for mine, theirs in rates),
        ours=ours,
        other=other,
        unit="answers/s",
    )


def _random_gate(loaded: LoadedModel) -> LinearProbe:
    """Return a gate that costs what a trusted one does."""
    layers = len(loaded.decoder)
    first = layers // 2
    generator = torch.Generator().manual_seed(1)
    shape = (layers - first, loaded.decoder.hidden_size)
    return LinearProbe(
        directions=torch.randn(shape, generator=generator),
        offsets=torch.zeros(shape[0]),
        first_layer=first,
    )


def _guarded(
    loaded: LoadedModel,
    inputs: dict[str, Tensor],
    doses: Sequence[DoseSpec],
    tokens: int,
) -> _Decode:
    generator = torch.Generator().manual_seed(0)
    shape = (len(loaded.decoder), loaded.decoder.hidden_size)
    steerer = Steerer(loaded.decoder, torch.randn(shape, generator=generator))
    score = any_reading(_random_gate(loaded))

    def decode() -> _Times:
        rows = [Row(dose=dose, max_new_tokens=tokens) for dose in doses]
        clock = _Clock(loaded.device)
        # Attached at each call, so that the other arm runs bare.
        with steerer:
            clock.note()
            decode_rows(
                loaded, steerer, inputs, rows, score=score, after_step=clock.note
            )
        return clock.times()

    return decode


def _bare(loaded: LoadedModel, inputs: dict[str, Tensor], tokens: int) -> _Decode:
    def decode() -> _Times:
        clock = _Clock(loaded.device)
        clock.note()
        loaded.model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return clock.times()

    return decode


class _Clock(StoppingCriteria):
    """A criterion that notes when each token is there, and stops nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[float] = []

    def note(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._marks.append(time.perf_counter())

    def times(self) -> _Times:
        marks = self._marks
        steps = [after - before for before, after in itertools.pairwise(marks[1:])]
        return _Times(
            first=marks[1] - marks[0],
            step=statistics.median(steps),
            whole=marks[-1] - marks[0],
        )

    def __call__(
        self, input_ids: Tensor, scores: Tensor, **kwargs: object
    ) -> torch.BoolTensor:
        self.note()
        going_on = torch.zeros(input_ids.shape[0], device=input_ids.device).bool()
        return cast("torch.BoolTensor", going_on)
