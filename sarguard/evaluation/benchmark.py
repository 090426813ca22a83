"""What steering costs, as ratios to bare transformers in one run.

    python -m sarguard.evaluation.benchmark [MODEL] [--json]

The arms take turns, so a busy moment of the machine hits all of them, and the median
of the pairwise ratios is reported with its quartiles. A step is the median time from
one token to the next within an answer, the check of every token included. The vectors
are random: what they say does not change what they cost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from sarguard.conversation import Turn
from sarguard.generation import Row, decode_rows
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel, load_model
from sarguard.steering.dose import ConstantDose
from sarguard.steering.steerer import Steerer

BATCH = 8
_SECONDS = 3.0
_STRENGTH = 0.01

Decode = Callable[[int], list[float]]
"""Decodes so many tokens; returns when it began and when each token was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Compare a guarded arm with another, over paired repeats."""

    what: str
    bar: str
    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    guarded_ms: float
    other_ms: float


def measure(
    loaded: LoadedModel, *, tokens: int = 32, repeats: int = 9
) -> tuple[Ratio, ...]:
    """Measure what steering costs on a model.

    Args:
        loaded: The model, with no steerer attached.
        tokens: Answer tokens a request; 3 or more.
        repeats: Pairs of measurements.
    """
    one, many = _prompts(loaded, 1), _prompts(loaded, BATCH)
    mixed = [_STRENGTH * (1 + row) for row in range(BATCH)]
    with _never_stopping(loaded):
        single = _pairs(
            _guarded(loaded, one, [_STRENGTH]), _bare(loaded, one), tokens, repeats
        )
        batch = _pairs(
            _guarded(loaded, many, mixed), _bare(loaded, many), tokens, repeats
        )
        uniform = _pairs(
            _guarded(loaded, many, mixed),
            _guarded(loaded, many, [_STRENGTH] * BATCH),
            tokens,
            repeats,
        )
    return (
        _ratio("decode step, steered / bare", "<= 1.03", single, "step"),
        _ratio("first token, steered / bare", "<= 1 extra step", single, "first"),
        _ratio(f"whole batch of {BATCH}, mixed / bare", "<= 1.03", batch, "whole"),
        _ratio(f"whole batch of {BATCH}, mixed / equal", "<= 1.03", uniform, "whole"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    first: float
    step: float
    whole: float


def _pairs(
    guarded: Decode, other: Decode, tokens: int, repeats: int
) -> list[tuple[_Times, _Times]]:
    # The first pass of a shape warms caches; it is not counted.
    for decode in (guarded, other):
        decode(3)
    found = []
    for turn in range(repeats):
        order = (guarded, other) if turn % 2 == 0 else (other, guarded)
        times = {decode: _time(decode, tokens) for decode in order}
        found.append((times[guarded], times[other]))
    return found


def _time(decode: Decode, tokens: int) -> _Times:
    marks = decode(tokens)
    steps = [after - before for before, after in itertools.pairwise(marks[1:])]
    return _Times(
        first=marks[1] - marks[0],
        step=statistics.median(steps),
        whole=marks[-1] - marks[0],
    )


def _ratio(
    what: str, bar: str, pairs: Sequence[tuple[_Times, _Times]], field: str
) -> Ratio:
    ours = [getattr(pair[0], field) for pair in pairs]
    others = [getattr(pair[1], field) for pair in pairs]
    ratios = sorted(a / b for a, b in zip(ours, others, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(
        what=what,
        bar=bar,
        median=statistics.median(ratios),
        low=low,
        high=high,
        guarded_ms=1e3 * statistics.median(ours),
        other_ms=1e3 * statistics.median(others),
    )


def _guarded(
    loaded: LoadedModel, inputs: dict[str, Tensor], strengths: list[float]
) -> Decode:
    generator = torch.Generator().manual_seed(0)
    shape = (len(loaded.decoder), loaded.decoder.hidden_size)
    steerer = Steerer(loaded.decoder, torch.randn(shape, generator=generator))

    def decode(tokens: int) -> list[float]:
        rows = [
            Row(dose=ConstantDose(alpha=strength), max_new_tokens=tokens)
            for strength in strengths
        ]
        clock = _Clock()
        # Attached at each call, so that the other arm runs bare.
        with steerer:
            clock.note()
            decode_rows(loaded, steerer, inputs, rows, after_step=clock.note)
        return clock.marks

    return decode


def _bare(loaded: LoadedModel, inputs: dict[str, Tensor]) -> Decode:
    def decode(tokens: int) -> list[float]:
        clock = _Clock()
        clock.note()
        loaded.model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return clock.marks

    return decode


class _Clock(StoppingCriteria):
    """Note when each token is there; stop nothing."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def note(self) -> None:
        self.marks.append(time.perf_counter())

    def __call__(
        self, input_ids: Tensor, scores: Tensor, **kwargs: object
    ) -> torch.BoolTensor:
        self.note()
        going_on = torch.zeros(input_ids.shape[0], device=input_ids.device).bool()
        return cast("torch.BoolTensor", going_on)


@contextmanager
def _never_stopping(loaded: LoadedModel) -> Iterator[None]:
    config = loaded.model.generation_config
    kept = config.eos_token_id
    config.eos_token_id = loaded.model.get_output_embeddings().weight.shape[0] + 1
    try:
        yield
    finally:
        config.eos_token_id = kept


def _prompts(loaded: LoadedModel, rows: int) -> dict[str, Tensor]:
    noise = np.random.default_rng(0).normal(size=int(_SECONDS * loaded.sampling_rate))
    clip = (0.05 * noise).astype(np.float32)
    turn = Turn(role="user", text="Answer the caller.", audio=(clip,))
    return build_inputs(loaded, [[turn]] * rows)


def describe_machine(loaded: LoadedModel) -> dict[str, Any]:
    """Return what a ratio has to be read with."""
    return {
        "model": loaded.name,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "processor": platform.machine(),
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one model and write the table."""
    parser = argparse.ArgumentParser(prog="python -m sarguard.evaluation.benchmark")
    parser.add_argument("model", nargs="?", default="reference")
    parser.add_argument("--device-map", default=None)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    loaded = load_model(_path(options.model), device_map=options.device_map)
    found = measure(loaded, tokens=options.tokens, repeats=options.repeats)
    machine = describe_machine(loaded)
    if options.json:
        content = {"machine": machine, "ratios": [asdict(ratio) for ratio in found]}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return 0
    for ratio in found:
        sys.stdout.write(
            f"{ratio.what:34} {ratio.median:6.3f}  [{ratio.low:.3f}, {ratio.high:.3f}]"
            f"  bar {ratio.bar:16} {ratio.guarded_ms:9.2f} ms against "
            f"{ratio.other_ms:9.2f} ms\n"
        )
    sys.stdout.write(f"{machine}\n")
    return 0


def _path(model: str) -> str:
    if model != "reference":
        return model
    from sarguard.reference.assemble import ensure_reference

    return str(ensure_reference(progress=False))


if __name__ == "__main__":
    raise SystemExit(main())
