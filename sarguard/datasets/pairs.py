"""Matched pairs of decoded clips, for calibration and evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from sarguard.datasets.clips import Clip, load_clips
from sarguard.datasets.texts import Split
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np

BENIGN: tuple[Split, ...] = ("borderline_calibration", "ordinary_calibration")
"""Splits of harmless requests that gates are fitted on beside the pairs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationPair:
    """A harmful spoken request and its harmless counterpart."""

    id: str
    harmful: np.ndarray
    """Mono float32 in [-1, 1], shape (samples,)."""
    safe: np.ndarray
    """Mono float32 in [-1, 1], shape (samples,)."""


def load_pairs(
    split: Split,
    *,
    sample_rate: int,
    limit: int | None = None,
    voice: str | None = None,
) -> list[CalibrationPair]:
    """Return decoded pairs of one split, in the order of the manifest.

    A held-out pair is spoken in two voices and so is returned twice, unless `voice`
    names one of the groups.

    Args:
        split: `calibration`, `validation`, `test` or `demo`.
        sample_rate: Wanted rate in hertz.
        limit: Maximum number of pairs; any prefix covers the topics evenly.
        voice: Keep only the `seen` or the `unseen` voices, or one voice by name.

    Raises:
        ConfigurationError: The split is unknown or has no pairs, or the limit is
            below one.
    """
    check_limit(limit)
    matched = match_clips(load_clips(split, voice=voice))
    if not matched:
        raise ConfigurationError(
            f"The calibration split {split!r} holds no pairs for voice {voice!r}. "
            "Use calibration, validation, test or demo, with voice None, 'seen' or "
            "'unseen'."
        )
    return [
        CalibrationPair(
            id=f"{harmful.pair}/{harmful.voice_group}",
            harmful=harmful.load(sample_rate=sample_rate),
            safe=safe.load(sample_rate=sample_rate),
        )
        for harmful, safe in matched[:limit]
    ]


def load_benign(*, sample_rate: int, limit: int | None = None) -> list[np.ndarray]:
    """Return decoded harmless clips beside the pairs, to fit a gate on.

    Requests that resemble harmful ones come in turn with ordinary ones.

    Args:
        sample_rate: Wanted rate in hertz.
        limit: Maximum number of clips.

    Raises:
        ConfigurationError: The limit is below one.
    """
    check_limit(limit)
    groups = (load_clips(split) for split in BENIGN)
    clips = [clip for row in zip_longest(*groups) for clip in row if clip is not None]
    return [clip.load(sample_rate=sample_rate) for clip in clips[:limit]]


def match_clips(clips: Iterable[Clip]) -> list[tuple[Clip, Clip]]:
    """Return the (harmful, safe) clips of each pair, matched by group of voices."""
    safe: dict[tuple[str | None, str], Clip] = {}
    harmful: list[Clip] = []
    for clip in clips:
        if clip.pair is None:
            continue
        if clip.kind == "safe":
            safe[clip.pair, clip.voice_group] = clip
        else:
            harmful.append(clip)
    return [(clip, safe[clip.pair, clip.voice_group]) for clip in harmful]


def check_limit(limit: int | None) -> None:
    """Raise ConfigurationError for a limit that keeps no pair."""
    if limit is not None and limit < 1:
        raise ConfigurationError(
            f"A limit of {limit} pairs keeps none. Use one or more, or None for all."
        )
