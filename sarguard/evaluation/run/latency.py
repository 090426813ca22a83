"""What a guard costs in time: one request at a time, arms in turn.

Every arm reads every prompt from the start here, as a deployed model does. The arms
take turns within each request, so a busy moment of the machine hits all of them; what
is reported is the ratio to the bare arm, its median over requests.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sarguard.decoding.request_reader import ReadBatch, read_batch, write_batch
from sarguard.evaluation.arms.arm import BARE, Arm
from sarguard.evaluation.arms.registry import OpenArm, Setup, open_arm
from sarguard.evaluation.data.items import Item
from sarguard.evaluation.run.batch_answers import (
    Batch,
    Progress,
    decode_arm,
    make_batches,
    with_instruction,
)

_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Times of one arm, medians over requests."""

    arm: Arm
    requests: int
    first_token_s: float
    token_s: float
    """Each further token."""
    first_token_ratio: float | None
    """To the bare arm's; None without it."""
    token_ratio: float | None


def measure_latency(
    setup: Setup,
    items: Sequence[Item],
    arms: Sequence[Arm],
    *,
    requests: int,
    progress: Progress | None = None,
) -> tuple[Latency, ...]:
    """Time arms on the first requests, the bare arm first.

    A request that an arm blocks has a first token (the message) and no further one.
    """
    opened = {arm: open_arm(arm, setup) for arm in arms}
    times: dict[Arm, list[tuple[float, float]]] = {arm: [] for arm in opened}
    chosen = items[:requests]
    for done, item in enumerate(chosen):
        (batch,) = make_batches(setup.loaded, [item], size=1)
        # The first pass of a shape warms caches; it is not counted.
        _time(setup, next(iter(opened.values())), batch)
        for arm, way in opened.items():
            if progress is not None:
                progress(done, len(chosen), str(arm))
            times[arm].append(_time(setup, way, batch))
    bare = times.get(BARE)
    return tuple(_latency(arm, found, bare) for arm, found in times.items())


def _time(setup: Setup, arm: OpenArm, batch: Batch) -> tuple[float, float]:
    """Return seconds to the first token, and for each token after it."""
    loaded = setup.loaded
    if arm.instruction:
        batch = with_instruction(loaded, batch, arm.instruction)
    marks: list[float] = []
    # Attaching is not timed: a deployed model is attached once.
    with arm.steerer:
        # Writing prompts is not timed, whatever the arm.
        written = write_batch(loaded, batch.conversations)
        started = time.perf_counter()
        read = ReadBatch(inputs=batch.inputs)
        if arm.dose.reads_states:
            with arm.steerer.bare():
                read = read_batch(loaded, written)
        decode_arm(
            loaded,
            arm,
            read.inputs,
            readings=read.readings,
            states=read.states,
            max_new_tokens=_TOKENS,
            after_step=lambda: marks.append(time.perf_counter()),
        )
        ended = time.perf_counter()
    first = marks[0] if marks else ended
    further = (marks[-1] - first) / (len(marks) - 1) if len(marks) > 1 else 0.0
    return first - started, further


def _latency(
    arm: Arm,
    times: Sequence[tuple[float, float]],
    bare: Sequence[tuple[float, float]] | None,
) -> Latency:
    return Latency(
        arm=arm,
        requests=len(times),
        first_token_s=statistics.median(first for first, _ in times),
        token_s=statistics.median(further for _, further in times),
        first_token_ratio=_ratio(times, bare, 0),
        token_ratio=_ratio(times, bare, 1),
    )


def _ratio(
    times: Sequence[tuple[float, float]],
    bare: Sequence[tuple[float, float]] | None,
    which: int,
) -> float | None:
    if bare is None:
        return None
    # A ratio within each request first: requests differ in length. A 0 stands for no
    # further token, as where an arm blocks.
    ratios = [
        own[which] / other[which]
        for own, other in zip(times, bare, strict=True)
        if other[which] > 0 and own[which] > 0
    ]
    return statistics.median(ratios) if ratios else None
