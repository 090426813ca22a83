"""How often a request is asked, and at which temperatures: greedily, or n times."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from sarguard.decoding import Sampling
from sarguard.evaluation.data.items import Item
from sarguard.serving.request import GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One try at a temperature."""

    temperature: float = 0.0
    """0 decodes greedily."""
    attempt: int = 0
    """From 0 on."""

    def __str__(self) -> str:
        return f"temperature {self.temperature:g}, try {self.attempt + 1}"


GREEDY = Draw()


def plan_draws(temperatures: Sequence[float], tries: int) -> tuple[Draw, ...]:
    """Return the tries at some temperatures, greedy first.

    Greedy decoding repeats itself: it is always there, and there once.

    Args:
        temperatures: 0 or more each.
        tries: Tries at each temperature above 0.
    """
    sampled = sorted({value for value in temperatures if value > 0})
    return (
        GREEDY,
        *(
            Draw(temperature=temperature, attempt=attempt)
            for temperature in sampled
            for attempt in range(tries)
        ),
    )


def as_request(item: Item, draw: Draw, *, max_new_tokens: int) -> GenerationRequest:
    """Return the options of a try as a client takes them, without its turns.

    The seed follows from the request and the try, so that a run repeats itself, in any
    batch and in every arm.

    Args:
        item: What is asked.
        draw: The try.
        max_new_tokens: Most tokens of the answer of an item that names no limit.
    """
    options = item.options
    seed = None
    if draw.temperature > 0:
        seed = zlib.crc32(f"{item.id}/{draw}".encode())
    return GenerationRequest(
        sampling=Sampling(temperature=draw.temperature, seed=seed),
        max_new_tokens=options.max_new_tokens or max_new_tokens,
        stop=options.stop,
        json_schema=options.json_schema,
    )
