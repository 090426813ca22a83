"""The ledger's share of an answer: `python -m sarguard.bench.ledger_share --help`.

The time of a guarded answer is compared with that of its two records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sarguard.client import SafeAudioLLM
from sarguard.datasets import load_clips
from sarguard.types import Reply


class Stopwatch:
    """Seconds that some calls take, added up."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, owner: object, name: str) -> None:
        """Time every call of an object's method from now on."""
        setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: object, **kwargs: object) -> Any:  # noqa: ANN401
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def measure(client: SafeAudioLLM, *, answers: int, tokens: int) -> dict[str, float]:
    """Return the median seconds of an answer and of its records, and their share."""
    if client.audit is None:
        raise ValueError("the client keeps no ledger: open it with audit=")
    watch = Stopwatch()
    watch.watch(client.audit, "started")
    watch.watch(client.audit, "finished")
    clips = [clip.read_bytes() for clip in load_clips("demo", "safe")]
    found = []
    for number in range(answers):
        watch.seconds = 0.0
        reply: Reply = client.generate(
            clips[number % len(clips)], max_new_tokens=tokens
        )
        found.append((reply.timings.total_s, watch.seconds))
    answer, records = (statistics.median(column) for column in zip(*found, strict=True))
    return {"answer_s": answer, "records_s": records, "share": records / answer}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--bundle", help="steering bundle of another model")
    parser.add_argument("--answers", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "audit.db"
        with SafeAudioLLM.from_pretrained(
            options.model, bundle=options.bundle, audit=ledger
        ) as client:
            found = measure(client, answers=options.answers, tokens=options.tokens)
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
