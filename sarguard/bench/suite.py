"""Every row of the bench, on one model after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from sarguard.bench.calibrating import measure_calibration, measure_memory
from sarguard.bench.callers import measure_callers
from sarguard.bench.conversation import measure_conversation
from sarguard.bench.decoding import measure_decoding
from sarguard.bench.rows import Bar, Measured, Row, Skipped
from sarguard.bench.synthetic import SEVEN_BILLION, random_qwen2_audio
from sarguard.datasets import load_pairs
from sarguard.errors import ConfigurationError
from sarguard.models.loading import LoadedModel

Part = Literal[
    "decoding", "callers", "conversation", "calibration", "memory", "import", "gpu"
]
PARTS: tuple[Part, ...] = get_args(Part)

Steps: TypeAlias = Callable[[int, int, str], None]
"""Called with parts done, parts in all, and what is measured now."""


_IMPORT = (
    "import json, sys, time; begin = time.perf_counter(); import sarguard; "
    "taken = time.perf_counter() - begin; "
    "print(json.dumps([taken, 'torch' in sys.modules]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure."""

    tokens: int = 32
    """Of each answer."""
    repeats: int = 9
    """Pairs of measurements of an answer; a third of it for 16 callers."""
    pairs: int = 100
    """That calibration reads, 12 or more."""


QUICK = Effort(tokens=8, repeats=3, pairs=12)
"""Shows in minutes that everything runs; the figures are rough."""


def run_bench(
    loaded: LoadedModel,
    *,
    effort: Effort,
    parts: Sequence[Part] = PARTS,
    progress: Steps | None = None,
) -> list[Row]:
    """Measure the chosen parts.

    Args:
        loaded: The model of every part but `import` and `gpu`, with no steerer
            attached. Its tokenizer serves the random model of `gpu`.
        effort: How long to measure.
        parts: What to measure.
        progress: Told of each part as it begins.
    """
    rows: list[Row] = []
    for done, part in enumerate(parts):
        if progress is not None:
            progress(done, len(parts), part)
        rows += _gpu(loaded, effort) if part == "gpu" else _part(loaded, part, effort)
    return rows


def measure_import(*, repeats: int) -> Measured:
    """Time `import sarguard`.

    Raises:
        ConfigurationError: It loads torch, which no repeat makes cheap.
    """
    found = [_time_import() for _ in range(repeats)]
    if any(heavy for _, heavy in found):
        raise ConfigurationError(
            "`import sarguard` loads torch here: does something on PYTHONPATH or in "
            "sitecustomize import it?"
        )
    return Measured(
        what="import sarguard",
        on="this machine",
        bar=Bar(sense="<", limit=0.3, unit="s"),
        values=tuple(seconds for seconds, _ in found),
        unit="s",
        note="torch is not imported",
    )


def _time_import() -> tuple[float, bool]:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True
    )
    seconds, heavy = json.loads(done.stdout)
    return float(seconds), bool(heavy)


def _part(loaded: LoadedModel, part: Part, effort: Effort) -> Iterator[Row]:
    if part == "decoding":
        yield from measure_decoding(
            loaded, tokens=effort.tokens, repeats=effort.repeats
        )
    elif part == "callers":
        yield measure_callers(
            loaded, tokens=effort.tokens, repeats=max(1, effort.repeats // 3)
        )
    elif part == "conversation":
        yield from measure_conversation(loaded, repeats=effort.repeats)
    elif part == "import":
        yield measure_import(repeats=effort.repeats)
    else:
        rate = loaded.sampling_rate
        pairs = load_pairs("calibration", sample_rate=rate, limit=effort.pairs)
        if part == "calibration":
            yield from measure_calibration(loaded, pairs)
        else:
            yield measure_memory(loaded, pairs)


def _gpu(loaded: LoadedModel, effort: Effort) -> Iterator[Row]:
    if not torch.cuda.is_available():
        yield Skipped(
            what="decode step, steered / bare",
            on="random Qwen2-Audio of 7B geometry, bfloat16, GPU",
            bar=Bar(sense="<=", limit=1.01),
            reason="no GPU here (torch.cuda.is_available() is false)",
        )
        return
    large = random_qwen2_audio(
        loaded.tokenizer, torch.device("cuda"), text=SEVEN_BILLION
    )
    for part in ("decoding", "callers", "conversation", "calibration", "memory"):
        yield from _part(large, part, effort)
