from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarguard.calibration.context_scores import (
    ContextRequest,
    OutOfFold,
    count_contexts,
    fit_scales,
    read_contexts,
    strongest,
)
from sarguard.calibration.contexts import SPOKEN, WRITTEN
from sarguard.calibration.gate_fit import GateQuality, MatchedStates, cross_fit
from sarguard.calibration.recipe import TextPair
from sarguard.steering.dose import ReadingKind
from tests import tiny

KINDS: tuple[ReadingKind, ...] = ("clip", "turn", "window", "conversation", "text")

scores = st.floats(-20, 20)
requests = st.lists(
    st.builds(
        ContextRequest,
        context=st.sampled_from(["alone", "polite", "agent"]),
        harmful=st.booleans(),
        raw=st.dictionaries(st.sampled_from(KINDS), scores, min_size=1),
    ),
    min_size=2,
    max_size=40,
)


def alone() -> GateQuality:
    drawn = torch.randn(300, generator=torch.Generator().manual_seed(3))
    return GateQuality(
        harmful=drawn[:100] + 1, safe=drawn[100:] - 1, benign=torch.zeros(0)
    )


@settings(max_examples=60, deadline=None)
@given(found=requests)
def test_in_no_context_do_harmless_readings_score_above_clips_alone(
    found: list[ContextRequest],
) -> None:
    quality = alone()
    ceiling = float(quality.harmless.mean() + 2 * quality.harmless.std())
    scales = fit_scales(found, quality)
    by_context: dict[tuple[str, str], list[float]] = {}
    for request in found:
        if not request.harmful:
            for kind, raw in request.raw.items():
                scale = scales[kind]
                score = raw * scale.gain + scale.shift
                by_context.setdefault((request.context, kind), []).append(score)
    for (_, kind), values in by_context.items():
        if kind == "clip":
            continue
        drawn = torch.tensor(values, dtype=torch.float64)
        spread = float(drawn.std()) if len(values) > 1 else 0.0
        assert float(drawn.mean()) + 2 * spread <= ceiling + 1e-3 * (1 + abs(ceiling))


def test_a_clip_alone_keeps_its_score() -> None:
    found = [ContextRequest(context="alone", harmful=False, raw={"clip": 3.0})]
    scale = fit_scales(found, alone())["clip"]
    assert (scale.gain, scale.shift) == (1.0, 0.0)


def test_the_strongest_reading_is_what_a_request_scores() -> None:
    found = [
        ContextRequest(context="a", harmful=True, raw={"clip": 1.0, "turn": 9.0}),
        ContextRequest(context="a", harmful=False, raw={"clip": -1.0, "turn": -3.0}),
        ContextRequest(context="a", harmful=False, raw={"clip": 0.5, "turn": -5.0}),
        ContextRequest(context="b", harmful=True, raw={"clip": 2.0}),
    ]
    scales = fit_scales(found, alone())
    by_context = strongest(found, scales)
    assert set(by_context) == {"a", "b"}
    turn = scales["turn"]
    assert by_context["a"].harmful == pytest.approx((9.0 * turn.gain + turn.shift,))
    assert by_context["a"].harmless == tuple(sorted(by_context["a"].harmless))
    assert by_context["a"].harmless[-1] == max(0.5, -5.0 * turn.gain + turn.shift)
    assert by_context["b"].harmful == (2.0,)


def test_every_context_reads_every_request_once() -> None:
    loaded, pairs = tiny.shared(), tiny.pairs(4)
    generator = torch.Generator().manual_seed(0)
    shape = (4, len(loaded.decoder), loaded.decoder.hidden_size)
    states = MatchedStates(
        harmful=torch.randn(shape, generator=generator),
        safe=torch.randn(shape, generator=generator),
    )
    texts = [TextPair(harmful=f"harm {i}", safe=f"safe {i}") for i in range(4)]
    probes = OutOfFold(spoken=cross_fit(states), written=cross_fit(states), texts=texts)
    seen: list[int] = []
    found = read_contexts(
        loaded,
        pairs,
        [tiny.clip(0.4)],
        probes,
        batch_size=3,
        after_batch=seen.append,
    )
    asked = 5 * len(SPOKEN) + 4 * len(WRITTEN)
    assert len(found) == asked
    assert sum(seen) == asked
    assert count_contexts(loaded, pairs, [tiny.clip(0.4)], texts) == asked
    assert {request.context for request in found} == {*SPOKEN, *WRITTEN}
    for request in found:
        spoken = request.context in SPOKEN
        assert ("clip" in request.raw) or not spoken
        assert "text" in request.raw or spoken
