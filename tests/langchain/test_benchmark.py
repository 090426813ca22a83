"""The chat model adds next to nothing to its client's time."""

from __future__ import annotations

from typing import Any

from langchain_sarguard.benchmark import interval, measure

from sarguard import SafeAudioLLM, SteeringBundle
from tests import tiny

# The reference model takes more than a second for an answer; 1 % of that.
MAX_US = 10_000


def test_the_overhead_of_a_call_is_small(tiny_bundle: SteeringBundle) -> None:
    loaded = tiny.build()
    with SafeAudioLLM.from_model(
        loaded.model, loaded.processor, bundle=tiny_bundle, alpha=0.1
    ) as client:
        found: Any = measure(client, pairs=2, calls=20, tokens=32, seconds=4.0)
    assert 0 < found["around"]["invoke_us"] < MAX_US
    assert 0 < found["around"]["stream_us"] < MAX_US
    assert found["pairs"]["count"] == 2
    low, high = found["pairs"]["interval"]
    assert low <= found["pairs"]["share"] <= high


def test_the_interval_holds_the_median() -> None:
    low, high = interval([0.0, 0.1, 0.2, 0.3, 0.4])
    assert 0.0 <= low < 0.2 < high <= 0.4
