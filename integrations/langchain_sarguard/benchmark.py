"""Cost of the chat model over its client: `python -m langchain_sarguard.benchmark`.

Measured in two ways, as JSON. `around`: one answer is recorded and replayed without a
model, so that only the chat model's own work is left, in microseconds of processor
time, which other programs do not change. `pairs`: client and chat model answer the same
question in turn, in random order; given as the median of the pairs' ratios less 1, with
a bootstrap interval of 95 %.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import numpy as np
from langchain_core.messages import BaseMessage

from langchain_sarguard.audio_handles import audio_message, wav_bytes
from langchain_sarguard.chat_models import ChatSafeAudio
from sarguard import Done, Policy, SafeAudioLLM, SteeringBundle

Clock: TypeAlias = Callable[[], float]

_RATE = 16_000
_TEXT = "Answer the question in the audio."
_RESAMPLES = 2000


class Replay(SafeAudioLLM):
    """Client that repeats one recorded answer, at once and without a model."""

    def __init__(self, client: SafeAudioLLM, events: Sequence[object]) -> None:
        self._client = client
        self._events = events

    @property
    def alpha(self) -> float:
        """Return the recorded client's steering coefficient."""
        return self._client.alpha

    @property
    def bundle(self) -> SteeringBundle:
        """Return the recorded client's bundle."""
        return self._client.bundle

    @property
    def policy(self) -> Policy:
        """Return the recorded client's policy."""
        return self._client.policy

    @property
    def dose(self) -> Any:
        """Return the recorded client's dose."""
        return self._client.dose

    @property
    def model_name(self) -> str:
        """Return the recorded client's model."""
        return self._client.model_name

    def stream(self, *_: Any, **__: Any) -> Any:
        """Return the recorded events."""
        return nullcontext(iter(self._events))


def record(
    client: SafeAudioLLM, clip: bytes, *, tokens: int
) -> tuple[list[object], float]:
    """Return the events of an answer, and its seconds."""
    with client.stream(clip, _TEXT, max_new_tokens=tokens) as stream:
        events = list(stream)
    done = events[-1]
    if not isinstance(done, Done):
        raise RuntimeError("the answer ended without its reply")
    return [*events], done.reply.timings.total_s


def time_replayed(
    client: SafeAudioLLM,
    events: Sequence[object],
    messages: list[BaseMessage],
    *,
    calls: int,
) -> dict[str, float]:
    """Return the microseconds of processor time that a call takes without a model."""
    chat = ChatSafeAudio.from_client(Replay(client, events))
    calls_by_name: dict[str, Callable[[], object]] = {
        "invoke_us": lambda: chat.invoke(messages),
        "stream_us": lambda: list(chat.stream(messages)),
    }
    found = {}
    for name, call in calls_by_name.items():
        call()  # Whatever loads at first use is not part of a call.
        taken = [_time(call, time.thread_time) for _ in range(calls)]
        found[name] = 1e6 * statistics.median(taken)
    return found


def time_pairs(
    client: SafeAudioLLM,
    clip: bytes,
    messages: list[BaseMessage],
    *,
    pairs: int,
    tokens: int,
) -> list[float]:
    """Return how much longer the chat model took than the client, pair by pair."""
    chat = ChatSafeAudio.from_client(client, max_tokens=tokens)
    variants: list[Callable[[], object]] = [
        lambda: client.generate(clip, _TEXT, max_new_tokens=tokens),
        lambda: chat.invoke(messages),
    ]
    rng = random.Random(0)
    found = []
    for number in range(pairs + 1):
        # In random order, as the second of a pair may find warmer caches.
        order = rng.sample((0, 1), 2)
        taken = {which: _time(variants[which], time.perf_counter) for which in order}
        if number:  # The first pair is a warm-up.
            found.append(taken[1] / taken[0] - 1)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a bootstrap interval of 95 % of the median."""
    samples = np.random.default_rng(0).choice(
        np.asarray(values), (_RESAMPLES, len(values))
    )
    low, high = np.quantile(np.median(samples, axis=1), [0.025, 0.975])
    return float(low), float(high)


def measure(
    client: SafeAudioLLM, *, pairs: int, calls: int, tokens: int, seconds: float
) -> dict[str, object]:
    """Return both figures, and what they are shares of."""
    tone = 0.2 * np.sin(0.1 * np.arange(int(seconds * _RATE)))
    clip = wav_bytes(tone, sample_rate=_RATE)
    messages: list[BaseMessage] = [audio_message(clip, _TEXT)]
    record(client, clip, tokens=tokens)
    events, answer_s = record(client, clip, tokens=tokens)
    around = time_replayed(client, events, messages, calls=calls)
    ratios = time_pairs(client, clip, messages, pairs=pairs, tokens=tokens)
    return {
        "answer_s": answer_s,
        "pieces": len(events),
        "around": {**around, "share": around["invoke_us"] / 1e6 / answer_s},
        "pairs": {
            "count": len(ratios),
            "share": statistics.median(ratios),
            "interval": interval(ratios),
        },
    }


def _time(call: Callable[[], object], clock: Clock) -> float:
    started = clock()
    call()
    return clock() - started


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--bundle", help="steering bundle of another model")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--calls", type=int, default=300, help="replayed calls")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0, help="of the clip")
    options = parser.parse_args()
    with SafeAudioLLM.from_pretrained(
        options.model, bundle=options.bundle, progress=False
    ) as client:
        found = measure(
            client,
            pairs=options.pairs,
            calls=options.calls,
            tokens=options.tokens,
            seconds=options.seconds,
        )
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
