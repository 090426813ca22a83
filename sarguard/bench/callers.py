"""What the scheduler is worth: many callers at once, or one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sarguard.bench.rows import Bar, Measured, in_turn, medians
from sarguard.bench.synthetic import (
    never_stopping,
    noise,
    noise_bundle,
    require_answer,
)
from sarguard.client import SafeAudioLLM
from sarguard.models.loading import LoadedModel
from sarguard.types import Reply

CALLERS = 16


def measure_callers(loaded: LoadedModel, *, tokens: int, repeats: int) -> Measured:
    """Compare concurrent callers of one client with the same ones in sequence."""
    bundle = noise_bundle(loaded)
    clip = (noise(loaded), loaded.sampling_rate)

    with (
        never_stopping(loaded),
        SafeAudioLLM.from_loaded(loaded, bundle, alpha=bundle.card.alpha) as client,
        ThreadPoolExecutor(CALLERS) as callers,
    ):

        def ask(caller: int) -> Reply:
            reply = client.generate(clip, f"I am {caller}.", max_new_tokens=tokens)
            require_answer(reply)
            return reply

        def together() -> float:
            return _seconds(lambda: list(callers.map(ask, range(CALLERS))))

        def in_sequence() -> float:
            return _seconds(lambda: [ask(caller) for caller in range(CALLERS)])

        ask(0)
        times = in_turn(together, in_sequence, repeats=repeats)
    rates = [(CALLERS / ours, CALLERS / other) for ours, other in times]
    ours, other = medians(rates)
    gpu = loaded.device.type == "cuda"
    return Measured(
        what=f"throughput, {CALLERS} callers at once / one after the other",
        on=loaded.name,
        bar=Bar(sense=">=", limit=3.0 if gpu else 1.3),
        values=tuple(mine / theirs for mine, theirs in rates),
        ours=ours,
        other=other,
        unit="answers/s",
    )


def _seconds(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin
