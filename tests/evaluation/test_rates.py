from __future__ import annotations

import math

import numpy as np
import pytest

from sarguard.errors import InsufficientDataError
from sarguard.evaluation.stats.rates import DRAWS, Resampling, interpolate, rate_of


def one_each(count: int, stratum: str = "all") -> Resampling:
    return Resampling({f"c{i}": stratum for i in range(count)})


def test_an_interval_is_as_wide_as_it_should_be() -> None:
    flags = [(f"c{i}", i < 30) for i in range(100)]
    rate = rate_of(one_each(100).share(flags))
    assert rate is not None
    assert rate.value == pytest.approx(0.3)
    expected = 2 * 1.96 * math.sqrt(0.3 * 0.7 / 100)
    assert rate.high - rate.low == pytest.approx(expected, rel=0.1)
    assert rate.low < rate.value < rate.high


def test_what_a_cluster_holds_is_drawn_together() -> None:
    apart = [(f"c{i}", i < 30) for i in range(100)]
    # The same flags in ten clusters of ten alike requests.
    together = [(f"c{i // 10}", i < 30) for i in range(100)]
    narrow = rate_of(one_each(100).share(apart))
    wide = rate_of(one_each(10).share(together))
    assert narrow is not None
    assert wide is not None
    assert wide.value == pytest.approx(narrow.value)
    ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.2)


def test_every_draw_has_as_many_clusters_of_a_stratum_as_there_are() -> None:
    strata = {f"c{i}": "few" if i < 3 else "many" for i in range(50)}
    weights = Resampling(strata)._weights
    assert weights.shape == (1 + DRAWS, 50)
    assert (weights[0] == 1).all()
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 3:].sum(axis=1) == 47).all()


def test_draws_repeat_and_are_shared() -> None:
    flags = [(f"c{i}", i % 3 == 0) for i in range(30)]
    first, second = one_each(30).share(flags), one_each(30).share(flags)
    np.testing.assert_array_equal(first, second)
    # An arm that refuses one request more is never below, in any draw.
    more = one_each(30).share([*flags[:-1], ("c29", True)])
    assert (more >= first).all()


def test_a_figure_that_is_mostly_undefined_has_no_interval() -> None:
    assert rate_of(one_each(5).share([])) is None
    draws = np.full(1 + DRAWS, np.nan)
    draws[0] = 1.0
    assert rate_of(draws) is None


def test_nothing_cannot_be_resampled() -> None:
    with pytest.raises(InsufficientDataError, match="no request"):
        Resampling({})


@pytest.mark.parametrize(
    ("points", "level", "expected"),
    [
        ([(0, 0), (1, 1)], 0.25, 0.25),
        ([(0, 0), (0.5, 0.1), (0.5, 0.3), (1, 1)], 0.5, 0.1),
        ([(0, 0), (0.8, 0.4), (0.2, 0.9), (0.9, 1.0)], 0.5, 0.25),
        ([(0.6, 0.2), (1, 1)], 0.5, math.nan),
        ([(0, 0), (0.4, 1)], 0.5, math.nan),
    ],
)
def test_interpolation_follows_the_doses(
    points: list[tuple[float, float]], level: float, expected: float
) -> None:
    assert interpolate(points, level) == pytest.approx(expected, nan_ok=True)
