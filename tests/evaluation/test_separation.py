from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.arms.registry import plan_arms
from sarguard.evaluation.data.items import Item
from sarguard.evaluation.run.batch_answers import make_batches
from sarguard.evaluation.run.latency import measure_latency
from sarguard.evaluation.run.separation import _probe, area, measure_separation
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.residual import last_states
from tests import tiny
from tests.evaluation.test_arms import make_setup
from tests.evaluation.test_runner import item


def matched(count: int) -> list[Item]:
    return [item(n, kind) for n in range(count) for kind in ("harmful", "safe")]


def test_areas_are_those_of_the_roc_curve() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(40) < 0.5
    scores = np.round(generator.normal(size=40) + truth, 1)
    assert area(truth, scores) == pytest.approx(roc_auc_score(truth, scores))


def test_states_along_the_vector_are_compared_layer_by_layer() -> None:
    loaded = tiny.shared()
    items = [*(item(n) for n in range(3)), *(item(n, "safe") for n in range(3, 7))]
    vectors = torch.randn(len(loaded.decoder), loaded.decoder.hidden_size)
    found = measure_separation(loaded, vectors, items, batch_size=4)
    assert found is not None
    assert (found.harmful, found.safe) == (3, 4)
    assert found.by_probe == ()
    states = [
        last_states(loaded.decoder, make_batches(loaded, [i], size=1)[0].inputs)[:, 0]
        for i in items
    ]
    truth = [i.kind == "harmful" for i in items]
    for layer, got in enumerate(found.along_vector):
        scores = [float(state[layer] @ vectors[layer]) for state in states]
        assert got == pytest.approx(roc_auc_score(truth, scores))


def test_a_probe_finds_what_is_there_and_nothing_where_nothing_is() -> None:
    generator = np.random.default_rng(0)
    harmful = np.arange(80) % 2 == 0
    groups = np.array([f"p{n // 2}" for n in range(80)])
    # A matched pair is alike: a probe that saw one of them would know the other.
    shared = np.repeat(generator.normal(size=(40, 6)), 2, axis=0) * 3
    noise = generator.normal(size=(80, 6))
    nothing, there = shared + noise, shared + noise
    there[:, 0] += 6 * harmful
    found = _probe(np.stack([nothing, there], axis=1), harmful, groups)
    assert 0.3 < found[0] < 0.7
    assert found[1] > 0.85


def test_one_suite_alone_is_not_compared() -> None:
    loaded = tiny.shared()
    vectors = torch.zeros(len(loaded.decoder), loaded.decoder.hidden_size)
    assert measure_separation(loaded, vectors, [item(0)], batch_size=1) is None


def test_every_arm_is_timed_against_the_bare_one(tiny_bundle: SteeringBundle) -> None:
    arms = plan_arms([0.3], ["bare", "prompt", "ablated", "tier-maximum"])
    found = measure_latency(make_setup(tiny_bundle), matched(2), arms, requests=2)
    assert [row.arm for row in found] == list(arms)
    bare = found[0]
    assert bare.requests == 2
    assert (bare.first_token_ratio, bare.token_ratio) == (1.0, 1.0)
    assert all(row.first_token_s > 0 for row in found)
    assert all(row.first_token_ratio for row in found)


def test_without_a_bare_arm_there_is_no_ratio(tiny_bundle: SteeringBundle) -> None:
    arms = [Arm(name="ablated", alpha=0.3)]
    (row,) = measure_latency(make_setup(tiny_bundle), matched(1), arms, requests=1)
    assert (row.first_token_ratio, row.token_ratio) == (None, None)
