from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sarguard.calibration.gate_fit import (
    GateQuality,
    MatchedStates,
    cross_validate,
    fit_probe,
)
from sarguard.errors import (
    ConfigurationError,
    DegenerateDirectionError,
    InsufficientDataError,
)

LAYERS, WIDTH = 6, 10

Matrix = NDArray[np.float64]


def states(
    pairs: int = 40, *, shift: float = 2.0, seed: int = 0, width: int = WIDTH
) -> tuple[Tensor, Tensor]:
    """Return matched states: pairs share a topic, harm shifts the first axis."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    topic = 5.0 * draw(pairs, LAYERS, width)
    harmful, safe = (topic + draw(pairs, LAYERS, width) for _ in range(2))
    harmful[..., 0] += shift
    return harmful, safe


def matched(harmful: Tensor, safe: Tensor) -> MatchedStates:
    return MatchedStates(harmful=harmful, safe=safe)


def plain_direction(
    harmful: Matrix, safe: Matrix, benign: Matrix | None, gamma: float
) -> tuple[Matrix, float]:
    """Fit one layer in NumPy, by the D x D covariance."""
    harmless = safe if benign is None else np.concatenate([safe, benign])
    mean_h, mean_s = harmful.mean(0), harmless.mean(0)
    d = harmful - safe
    x = np.concatenate([harmful - mean_h, harmless - mean_s, d - d.mean(0)])
    covariance = x.T @ x / len(x)
    t = np.trace(covariance) / covariance.shape[0]
    w = np.linalg.inv(
        (1 - gamma) * covariance + gamma * t * np.eye(covariance.shape[0])
    ) @ (mean_h - mean_s)
    s = w @ (mean_h - mean_s) / 2
    return w / s, float(w @ (mean_h + mean_s) / 2 / s)


@settings(max_examples=25, deadline=None)
@given(
    gamma=st.floats(0.05, 1.0),
    pairs=st.integers(4, 30),
    width=st.integers(2, 40),
    extra=st.integers(0, 8),
    seed=st.integers(0, 10_000),
)
def test_the_gate_is_the_plain_shrunken_discriminant(
    gamma: float, pairs: int, width: int, extra: int, seed: int
) -> None:
    harmful, safe = states(pairs, seed=seed, width=width)
    benign = states(extra, seed=seed + 1, width=width)[1] if extra else None
    gate = fit_probe(
        MatchedStates(harmful=harmful, safe=safe, benign=benign), shrinkage=gamma
    )
    assert gate.first_layer == LAYERS // 2
    for place, layer in enumerate(range(LAYERS // 2, LAYERS)):
        direction, offset = plain_direction(
            harmful[:, layer].double().numpy(),
            safe[:, layer].double().numpy(),
            None if benign is None else benign[:, layer].double().numpy(),
            gamma,
        )
        np.testing.assert_allclose(
            gate.directions[place].numpy(), direction, rtol=1e-4, atol=1e-5
        )
        assert float(gate.offsets[place]) == pytest.approx(offset, rel=1e-3, abs=1e-4)


def test_the_groups_means_score_one_and_minus_one() -> None:
    harmful, safe = states()
    gate = fit_probe(matched(harmful, safe))
    assert float(gate.score(harmful.transpose(0, 1)).mean()) == pytest.approx(
        1, abs=1e-3
    )
    assert float(gate.score(safe.transpose(0, 1)).mean()) == pytest.approx(-1, abs=1e-3)


def test_what_a_pair_shares_is_not_mistaken_for_harm() -> None:
    # The topic varies five times as much as what tells a pair apart.
    found = cross_validate(matched(*states(60, shift=4.0)))
    assert found.auc > 0.75
    assert found.pairwise_accuracy > 0.9


def test_cross_validation_sees_through_pairs_that_tell_nothing() -> None:
    harmful, safe = states(60, shift=0.0)
    fitted = fit_probe(matched(harmful, safe))
    flattering = fitted.score(harmful.transpose(0, 1)) > fitted.score(
        safe.transpose(0, 1)
    )
    found = cross_validate(matched(harmful, safe))
    assert float(flattering.double().mean()) > 0.6
    assert 0.3 < found.auc < 0.7


def test_a_pair_is_scored_by_a_gate_that_never_saw_it() -> None:
    harmful, safe = states(12)
    before = cross_validate(matched(harmful, safe), folds=12)
    changed = harmful.clone()
    changed[5] += 3.0
    after = cross_validate(matched(changed, safe), folds=12)
    gate = fit_probe(
        matched(torch.cat([harmful[:5], harmful[6:]]), torch.cat([safe[:5], safe[6:]]))
    )
    assert float(after.harmful[5]) == pytest.approx(
        float(gate.score(changed[5:6].transpose(0, 1))), abs=1e-4
    )
    assert float(before.safe[5]) == pytest.approx(float(after.safe[5]), abs=1e-4)


def test_every_form_of_a_clip_is_left_out_together() -> None:
    harmful, safe = states(12)
    instructed = MatchedStates(harmful=harmful, safe=safe, benign=safe[:4] + 1)
    bare = MatchedStates(harmful=harmful + 2, safe=safe + 2, benign=safe[:4] + 3)
    both = instructed.interleave(bare)
    assert torch.equal(both.harmful[::2], instructed.harmful)
    assert torch.equal(both.harmful[1::2], bare.harmful)
    found = cross_validate(both, folds=12)
    assert (found.pair_count, found.benign_count, len(found.harmful)) == (12, 4, 24)
    kept = [torch.arange(n) // 2 != 5 for n in (24, 24, 8)]
    gate = fit_probe(both.select(kept))
    expected = gate.score(both.harmful[10:12].transpose(0, 1))
    assert torch.allclose(found.harmful[10:12], expected, atol=1e-4)
    with pytest.raises(ConfigurationError, match="several forms already"):
        both.interleave(instructed)


def test_a_gate_fitted_to_two_forms_cares_little_for_the_form() -> None:
    harmful, safe = states(60)
    shift = torch.zeros(harmful.shape[1:])
    shift[:, 0] = 1.0
    shift[:, 1] = 20.0
    instructed = MatchedStates(harmful=harmful, safe=safe)
    bare = MatchedStates(harmful=harmful + shift, safe=safe + shift)
    moved = [
        float(
            (
                gate.score((safe + shift).transpose(0, 1))
                - gate.score(safe.transpose(0, 1))
            ).mean()
        )
        for gate in (fit_probe(instructed), fit_probe(instructed.interleave(bare)))
    ]
    assert abs(moved[1]) < 0.5 * abs(moved[0])


@pytest.mark.parametrize(
    ("harmful", "safe", "expected"),
    [([2.0, 3.0], [0.0, 1.0], 1.0), ([0.0], [0.0], 0.5), ([0.0, 2.0], [1.0, 1.0], 0.5)],
)
def test_auc_counts_wins_and_half_the_ties(
    harmful: list[float], safe: list[float], expected: float
) -> None:
    found = GateQuality(
        harmful=torch.tensor(harmful), safe=torch.tensor(safe), benign=torch.zeros(0)
    )
    assert found.auc == expected


def test_bad_settings_are_named() -> None:
    harmful, safe = states(5)
    with pytest.raises(InsufficientDataError, match="at least 2"):
        fit_probe(matched(harmful[:1], safe[:1]))
    with pytest.raises(InsufficientDataError, match="3 to judge"):
        cross_validate(matched(harmful[:2], safe[:2]))
    with pytest.raises(ConfigurationError, match="shrinkage is 0"):
        fit_probe(matched(harmful, safe), shrinkage=0.0)
    with pytest.raises(ConfigurationError, match="matched"):
        fit_probe(matched(harmful, safe[:4]))
    with pytest.raises(DegenerateDirectionError, match="layer 3"):
        fit_probe(matched(safe, safe))
    harmful[2, 4, 1] = float("nan")
    with pytest.raises(DegenerateDirectionError, match="layer 4"):
        fit_probe(matched(harmful, safe))
