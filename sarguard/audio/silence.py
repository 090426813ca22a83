"""Where speech begins and ends in a clip, for a score that silence must not move.

Levels are compared within the clip: with its own loud frames and its own noise floor.
What is taken for silence is steady and far below the speech, so that quiet speech
before or after loud speech stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HOP_S = 0.01
_FRAME_HOPS = 2
_LOUD_FRAMES = 8
"""The loudest frames but these few set the level of speech: a click does not."""
_BELOW_SPEECH_DB = 15.0
_INAUDIBLE_DB = 60.0
_ABOVE_FLOOR_DB = 8.0
_FLOOR_PERCENTILE = 5.0
_STEADY_DB = 12.0
_WINDOW_FRAMES = 10
_EDGE_FRAMES = 30
_MIN_LOUD_IN_WINDOW = 4
_MAX_PASSES = 4
# Less is left as it is: a clip without long silences is read once, as it was sent.
_LEAST_CUT_S = 0.3
_SMALLEST = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSpan:
    """Samples of a clip from the first speech to the last, never empty."""

    start: int
    stop: int


def speech_span(
    clip: NDArray[np.float32], rate: int, *, margin_s: float = 0.2
) -> SpeechSpan:
    """Return where a clip's speech is, with a margin of what surrounds it.

    Args:
        clip: Mono samples, shape (samples,).
        rate: Samples a second.
        margin_s: Silence that stays on either side, in seconds.

    Returns:
        The span; the whole clip where nothing in it stands out as speech.
    """
    hop = max(1, int(rate * _HOP_S))
    if len(clip) <= _WINDOW_FRAMES * hop:
        return SpeechSpan(start=0, stop=len(clip))
    levels = _levels(clip, hop)
    first, last = 0, len(levels)
    # Silence before may differ from silence after (zeros here, a room's noise there):
    # each pass takes off what is below the floor of what is left.
    for _ in range(_MAX_PASSES):
        begin, end = _trim(levels[first:last])
        if (begin, end) == (0, last - first):
            break
        first, last = first + begin, first + end
    margin, least = int(rate * margin_s), int(rate * _LEAST_CUT_S)
    start = max(0, first * hop - margin)
    stop = min(len(clip), last * hop + margin)
    return SpeechSpan(
        start=start if start > least else 0,
        stop=stop if len(clip) - stop > least else len(clip),
    )


def _levels(clip: NDArray[np.float32], hop: int) -> NDArray[np.float64]:
    """Return the level of each frame in dB, a frame every hop."""
    hops = -(-len(clip) // hop)
    padded = np.zeros(hops * hop)
    padded[: len(clip)] = clip
    # Of the frame's deviation from its mean: a constant offset is no sound.
    energy = padded.reshape(hops, hop)
    energy = ((energy - energy.mean(axis=1, keepdims=True)) ** 2).mean(axis=1)
    framed = np.convolve(energy, np.full(_FRAME_HOPS, 1 / _FRAME_HOPS), mode="same")
    levels: NDArray[np.float64] = 10 * np.log10(framed + _SMALLEST)
    return levels


def _trim(levels: NDArray[np.float64]) -> tuple[int, int]:
    """Return the frames from the first loud one to behind the last."""
    if len(levels) <= _WINDOW_FRAMES:
        return 0, len(levels)
    loud = np.sort(levels)[-min(_LOUD_FRAMES, len(levels))]
    floor = float(np.percentile(levels, _FLOOR_PERCENTILE))
    begin = _first_loud(levels, loud, floor)
    end = len(levels) - _first_loud(levels[::-1], loud, floor)
    inaudible = loud - _INAUDIBLE_DB
    if not _is_silence(levels[:begin], inaudible):
        begin = 0
    if not _is_silence(levels[end:], inaudible):
        end = len(levels)
    return begin, end


def _first_loud(levels: NDArray[np.float64], loud: float, floor: float) -> int:
    """Return the first frame of speech; 0 where no frame stands out."""
    # The edge's own level counts too: pauses within speech may be quieter than a noisy
    # room before it. What is not steady is held to be speech all the same.
    edge = float(np.median(levels[:_EDGE_FRAMES]))
    threshold = min(
        max(floor + _ABOVE_FLOOR_DB, edge + _ABOVE_FLOOR_DB, loud - _INAUDIBLE_DB),
        loud - _BELOW_SPEECH_DB,
    )
    above = levels > threshold
    counts = np.convolve(above, np.ones(_WINDOW_FRAMES), mode="valid")
    busy = np.flatnonzero(counts >= _MIN_LOUD_IN_WINDOW)
    if not len(busy):
        return 0
    return int(busy[0] + np.argmax(above[busy[0] : busy[0] + _WINDOW_FRAMES]))


def _is_silence(levels: NDArray[np.float64], inaudible: float) -> bool:
    """Return whether frames are steady, as noise is, or cannot be heard."""
    if not len(levels):
        return True
    # A few frames may stand out: a click, or the breath before a word.
    low, high = np.percentile(levels, [10, 90])
    return bool(high <= inaudible or high - low <= _STEADY_DB)
