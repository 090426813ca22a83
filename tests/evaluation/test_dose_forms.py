from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from sarguard.calibration.gate_fit import MatchedStates, fit_probe
from sarguard.calibration.recipe import Recipe
from sarguard.calibration.states import CalibrationStates
from sarguard.evaluation.arms import registry
from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.arms.controls import Recalibration
from sarguard.evaluation.arms.dose_forms import (
    ShapedSteerer,
    contrast_vectors,
    null_space_weights,
    recentred,
    register_forms,
    spared_vectors,
)
from sarguard.evaluation.arms.gate_trials import _judge, try_gates
from sarguard.evaluation.arms.registry import Setup, open_arm
from sarguard.evaluation.run.batch_answers import answer_arm, make_batches, prefill
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.gate import LinearProbe
from tests import tiny
from tests.evaluation.test_arms import questions
from tests.evaluation.test_runner import ITEMS


@pytest.fixture
def setup(tiny_bundle: SteeringBundle) -> Setup:
    card = tiny_bundle.card.model_copy(update={"alpha": 0.7})
    loaded = tiny.shared()
    again = Recalibration(
        loaded,
        Recipe(rank=2),
        pairs=lambda: tiny.pairs(5),
        benign=lambda: [tiny.clip(0.4), tiny.clip(0.5, pitch=500.0)],
        requests=lambda: [pair.harmful for pair in tiny.pairs(2)],
    )
    return Setup(loaded=loaded, bundle=replace(tiny_bundle, card=card), again=again)


@pytest.fixture
def names() -> Iterator[tuple[str, ...]]:
    known = dict(registry._BUILDERS)
    yield tuple(register_forms())
    registry._BUILDERS.clear()
    registry._BUILDERS.update(known)


def random_states(seed: int = 0) -> CalibrationStates:
    draw = torch.Generator().manual_seed(seed)
    harmful, safe, benign = (
        torch.randn(count, 3, 96, generator=draw) for count in (20, 20, 12)
    )
    harmful[:, :, 0] += 6
    benign[:, :, 1] += 4
    return CalibrationStates(
        refusing=harmful, harmful=harmful, safe=safe, benign=benign
    )


def test_every_form_answers_and_is_proven(setup: Setup, names: tuple[str, ...]) -> None:
    (batch,) = make_batches(setup.loaded, questions(0.9, 0.4), size=2)
    read = prefill(setup.loaded, batch)
    said = {}
    for name in names:
        opened = open_arm(Arm(name=name), setup)
        with opened.steerer:
            said[name] = answer_arm(setup.loaded, opened, read, max_new_tokens=8)
        assert all(answer.tokens > 0 for answer in said[name]), name
    plain = [answer.text for answer in said["form-plain"]]
    assert any([a.text for a in said[name]] != plain for name in names)


def test_a_shape_that_adds_as_usual_answers_as_usual(setup: Setup) -> None:
    (batch,) = make_batches(setup.loaded, questions(0.9), size=1)
    usual = open_arm(Arm(name="ablated", alpha=1.5), setup)
    vectors = setup.bundle.vectors.ablated
    shaped = replace(
        usual,
        steerer=ShapedSteerer(
            setup.loaded.decoder, vectors, lambda h, push, _l, _s: h + push
        ),
    )
    texts = []
    for opened in (usual, shaped):
        with opened.steerer:
            (answer,) = answer_arm(setup.loaded, opened, batch, max_new_tokens=8)
        texts.append(answer.text)
    assert texts[0] == texts[1]


def test_vectors_are_spared_what_false_refusals_share() -> None:
    states = random_states()
    vectors = torch.randn(3, 96)
    assert states.benign is not None
    false = states.benign.mean(0) - states.safe.mean(0)
    found = spared_vectors(vectors, states)
    assert (found * false).sum(dim=-1).abs().max() < 1e-4
    assert (vectors * false).sum(dim=-1).abs().max() > 1e-2


def test_contrast_is_what_tells_the_kinds_apart_and_as_long_as_the_vectors() -> None:
    states = random_states()
    vectors = torch.randn(3, 96)
    found = contrast_vectors(vectors, states)
    torch.testing.assert_close(found.norm(dim=-1), vectors.norm(dim=-1))
    apart = states.harmful.mean(0) - states.safe.mean(0)
    cosine = torch.cosine_similarity(found, apart, dim=-1)
    torch.testing.assert_close(cosine, torch.ones(3))


def test_a_null_space_map_is_near_zero_on_harmless_states() -> None:
    states = random_states()
    weights = null_space_weights(states)
    harmful = torch.einsum("nld,ld->ln", states.harmful, weights)
    safe = torch.einsum("nld,ld->ln", states.safe, weights)
    assert harmful.mean() > 0.7
    assert safe.abs().max() < 1e-4


def test_a_gate_is_moved_to_where_requests_are_asked() -> None:
    states = random_states()
    gate = fit_probe(MatchedStates(harmful=states.harmful, safe=states.safe))
    shift = torch.randn(3, 96)
    asked = torch.cat([states.harmful, states.safe]) + shift
    moved = recentred(gate, states, asked)
    before = gate.score(states.harmful.transpose(0, 1))
    after = moved.score((states.harmful + shift).transpose(0, 1))
    assert torch.allclose(before, after, atol=1e-3)


def test_gates_are_judged_against_each_harmless_suite(setup: Setup) -> None:
    trials = try_gates(setup, ITEMS, batch_size=2)
    names = [trial.gate for trial in trials]
    assert len(set(names)) == len(names) == 13
    assert "half of the pairs" in names
    for trial in trials:
        assert set(trial.areas) == {"safe", "ordinary"}
        assert all(0 <= area <= 1 for area in trial.areas.values())
        assert 0 <= trial.caught <= 1


def test_gates_are_judged_in_writing_where_the_words_are_known(setup: Setup) -> None:
    name = "the bundle's, the same requests in writing"
    unknown = [replace(ITEMS[0], request=""), *ITEMS[1:]]
    heard = try_gates(setup, unknown, batch_size=2)
    assert name not in [trial.gate for trial in heard]
    known = [replace(item, request=f"Question {item.id}?") for item in ITEMS]
    written = {t.gate: t for t in try_gates(setup, known, batch_size=2)}[name]
    assert set(written.areas) == {"safe", "ordinary"}


def test_the_share_caught_is_counted_above_nearly_all_harmless_requests() -> None:
    # One layer, one axis: the score is the state.
    gate = LinearProbe(
        directions=torch.ones(1, 1), offsets=torch.zeros(1), first_layer=0
    )
    scores = torch.cat([torch.tensor([0.5, 3.0]), torch.linspace(0, 1, 51)])
    suites = np.array(["harmful"] * 2 + ["safe"] * 51)
    trial = _judge("axis", gate, scores[None, :, None], suites)
    assert trial.caught == 0.5
    assert trial.areas == {"safe": pytest.approx((25.5 + 51) / 102)}
