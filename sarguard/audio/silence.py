"""Where speech begins and ends in a clip, for a score that silence must not move.

Levels are compared within the clip: with its own loud frames and its own noise floor.
What is taken for silence is far below the speech and steady in every band of
frequencies, as a room's noise is. Speech is not, however quiet and however levelled it
is, so that what is whispered before or after loud speech stays.
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
_FAR_BELOW_DB = 60.0
_UNHEARD_DB = 90.0
"""How far below the loudest band nothing reaches an encoder: Whisper's features end
80 dB below, in narrower bands than these."""
_ABOVE_FLOOR_DB = 8.0
_FLOOR_PERCENTILE = 5.0
_BLOCK_S = 0.1
_BANDS = 16
_LOWEST_HZ, _HIGHEST_HZ = 100.0, 8000.0
# A band's energy over a block is a mean over ten degrees of freedom at the least: noise
# is within 5 dB of its median. A syllable is not, nor is a gap in the noise.
_STANDS_OUT_DB = 5.0
_STANDING_BANDS = 2
# A click or a creak now and then is no speech, and so little says nothing.
_STANDING_BLOCKS = 2
_STANDING_SHARE = 0.01
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
    bands = _band_levels(clip, rate)
    first, last = 0, len(levels)
    # Silence before may differ from silence after (zeros here, a room's noise there):
    # each pass takes off what is below the floor of what is left.
    margin_frames = int(margin_s / _HOP_S)
    for number in range(_MAX_PASSES):
        # Clicks are forgiven once: what is left in each pass would add up.
        begin, end = _trim(
            levels, bands, first, last, margin=margin_frames, clicks=number == 0
        )
        if (begin, end) == (first, last):
            break
        first, last = begin, end
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


def _band_levels(clip: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Return the level in dB of each block's bands, shape (blocks, bands).

    The bands are equally wide on the mel scale, m = 2595 lg(1 + f / 700 Hz).
    """
    size = int(rate * _BLOCK_S)
    blocks = clip[: len(clip) // size * size].astype(np.float64).reshape(-1, size)
    power = np.abs(np.fft.rfft(blocks * np.hanning(size), axis=1)) ** 2
    low, high = np.log10(1 + np.array([_LOWEST_HZ, min(_HIGHEST_HZ, rate / 2)]) / 700)
    edges = 700 * (10 ** np.linspace(low, high, _BANDS + 1) - 1)
    bins = np.searchsorted(np.fft.rfftfreq(size, 1 / rate), edges)
    sums = np.add.reduceat(power, bins[:-1], axis=1)
    # The last sum runs to the end of the spectrum.
    sums[:, -1] -= power[:, bins[-1] :].sum(axis=1)
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(sums, 0) + _SMALLEST)
    return levels


def _trim(
    levels: NDArray[np.float64],
    bands: NDArray[np.float64],
    first: int,
    last: int,
    *,
    margin: int,
    clicks: bool,
) -> tuple[int, int]:
    """Return the frames from the first loud one to behind the last, of those given."""
    part = levels[first:last]
    if len(part) <= _WINDOW_FRAMES:
        return first, last
    loud = np.sort(part)[-min(_LOUD_FRAMES, len(part))]
    floor = float(np.percentile(part, _FLOOR_PERCENTILE))
    begin = first + _first_loud(part, loud, floor)
    end = last - _first_loud(part[::-1], loud, floor)
    unheard = bands.max(initial=-np.inf) - _UNHEARD_DB
    # The margin stays, so that a breath before a word and its echo do not count.
    if not _is_silence(bands, first, begin - margin, unheard, clicks=clicks):
        begin = first
    if not _is_silence(bands, end + margin, last, unheard, clicks=clicks):
        end = last
    return begin, end


def _first_loud(levels: NDArray[np.float64], loud: float, floor: float) -> int:
    """Return the first frame of speech; 0 where no frame stands out."""
    # The edge's own level counts too: pauses within speech may be quieter than a noisy
    # room before it. What is not steady is held to be speech all the same.
    edge = float(np.median(levels[:_EDGE_FRAMES]))
    threshold = min(
        max(floor + _ABOVE_FLOOR_DB, edge + _ABOVE_FLOOR_DB, loud - _FAR_BELOW_DB),
        loud - _BELOW_SPEECH_DB,
    )
    above = levels > threshold
    counts = np.convolve(above, np.ones(_WINDOW_FRAMES), mode="valid")
    busy = np.flatnonzero(counts >= _MIN_LOUD_IN_WINDOW)
    if not len(busy):
        return 0
    return int(busy[0] + np.argmax(above[busy[0] : busy[0] + _WINDOW_FRAMES]))


def _is_silence(
    bands: NDArray[np.float64],
    first: int,
    last: int,
    unheard: float,
    *,
    clicks: bool,
) -> bool:
    """Return whether frames are steady in every band, as noise is, or are not heard."""
    frames = round(_BLOCK_S / _HOP_S)
    # Whole blocks only: half of another may be speech.
    part = np.maximum(bands[-(-first // frames) : max(0, last // frames)], unheard)
    if not len(part):
        return True
    # Upwards and downwards: where noise fills most of it, speech may be a gap in it.
    apart = np.abs(part - np.median(part, axis=0)) > _STANDS_OUT_DB
    standing = int((apart.sum(axis=1) >= _STANDING_BANDS).sum())
    allowed = _STANDING_BLOCKS + _STANDING_SHARE * len(part) if clicks else 0
    return standing <= allowed
