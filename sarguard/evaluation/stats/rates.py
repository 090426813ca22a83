"""Rates with bootstrap intervals, over clusters of requests that are alike.

A cluster is drawn with all its requests (matched pairs, voices, variants of one
sentence), and as many clusters of each suite are drawn as there are. Every arm sees the
same draws, so a difference between two arms has an interval of its own, over the same
requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sarguard.errors import InsufficientDataError

DRAWS = 2000
CONFIDENCE = 0.95
# Fixed, so that the same records have the same intervals.
_SEED = 17633
_MIN_SHARE_OF_DRAWS = 0.5

Draws = NDArray[np.float64]
"""A figure over all requests, and then in every draw: shape (1 + DRAWS,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A figure with its bootstrap interval."""

    value: float
    low: float
    high: float


class Resampling:
    """Draw clusters again and again, the same way for every arm."""

    def __init__(self, strata: Mapping[str, str]) -> None:
        """Draw.

        Args:
            strata: For every cluster, what it is drawn among.

        Raises:
            InsufficientDataError: There is no cluster.
        """
        if not strata:
            raise InsufficientDataError("no request to resample: give at least one")
        self._places = {cluster: place for place, cluster in enumerate(strata)}
        weights = np.zeros((1 + DRAWS, len(strata)))
        # The first row is all requests as they are, by the same arithmetic as the
        # draws.
        weights[0] = 1
        generator = np.random.default_rng(_SEED)
        for stratum in dict.fromkeys(strata.values()):
            members = [self._places[c] for c, s in strata.items() if s == stratum]
            # How often each of n clusters comes up in n draws with replacement.
            even = np.full(len(members), 1 / len(members))
            weights[1:, members] = generator.multinomial(len(members), even, size=DRAWS)
        self._weights = weights

    def share(self, flags: Iterable[tuple[str, bool]]) -> Draws:
        """Return the share of flags that are set; NaN where none was drawn.

        Args:
            flags: The cluster of each request, and whether it counts.
        """
        counts = np.zeros((2, len(self._places)))
        for cluster, counted in flags:
            counts[0, self._places[cluster]] += counted
            counts[1, self._places[cluster]] += 1
        # Weighting a cluster's counts is the same as drawing all its requests.
        hits, total = self._weights @ counts[0], self._weights @ counts[1]
        shares: Draws = np.full(len(hits), np.nan)
        np.divide(hits, total, out=shares, where=total > 0)
        return shares


def rate_of(draws: Draws) -> Rate | None:
    """Return a figure with its percentile interval.

    Returns:
        None where the figure is NaN, over all requests or in most of the draws.
    """
    value, drawn = draws[0], draws[1:]
    defined = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(defined) < _MIN_SHARE_OF_DRAWS * len(drawn):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Rate(value=float(value), low=float(low), high=float(high))


def interpolate(points: Sequence[tuple[float, float]], level: float) -> float:
    """Return y where a path of (x, y) first comes up to x = level, or NaN."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= level <= x1:
            share = 0.0 if x1 == x0 else (level - x0) / (x1 - x0)
            return y0 + share * (y1 - y0)
    return float("nan")
