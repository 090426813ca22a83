"""Bring raw samples into mono float32, whatever they were stored as."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sarguard.errors import AudioFormatError, AudioSilentError

FloatArray: TypeAlias = npt.NDArray[np.float32]

MAX_PEAK = 2.0
"""The loudest float sample that is clipped; a louder one was scaled wrongly."""

SILENCE_DBFS = -60.0
"""The peak, in dB of full scale, below which a clip holds no speech."""

_INTEGER_SCALES = {
    np.dtype(np.int16): (0.0, 2.0**15),
    np.dtype(np.int32): (0.0, 2.0**31),
    np.dtype(np.uint8): (128.0, 128.0),
}
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def mix_down(samples: npt.NDArray[Any], *, name: str) -> FloatArray:
    """Average the channels of `samples` into one float32 channel.

    Args:
        samples: shape (frames, channels); int16, int32, uint8, float32 or float64.
        name: what to call the clip in an error.

    Returns:
        Shape (frames,), a fresh array, finite and within `MAX_PEAK`.

    Raises:
        AudioFormatError: on another dtype, NaN, infinity or values far outside
            [-1, 1].
    """
    native = samples.dtype.newbyteorder("=")
    if native in _FLOATS:
        _check_values(samples, name=name)
        return _mean(samples)
    if native not in _INTEGER_SCALES:
        raise AudioFormatError(
            f"{name} has dtype {samples.dtype}: give int16, int32, uint8, float32 "
            "or float64 samples."
        )
    offset, scale = _INTEGER_SCALES[native]
    return (_mean(samples) - np.float32(offset)) / np.float32(scale)


def check_audible(mono: FloatArray, *, name: str) -> None:
    """Refuse a clip whose peak about its mean is below `SILENCE_DBFS`."""
    mean = float(mono.mean(dtype=np.float64))
    peak = max(float(mono.max()) - mean, mean - float(mono.min()))
    if peak >= 10 ** (SILENCE_DBFS / 20):
        return
    found = f"{20 * math.log10(peak):.1f} dBFS" if peak > 0 else "digital silence"
    raise AudioSilentError(
        f"{name} is silent: found a peak of {found}, at least {SILENCE_DBFS:g} dBFS "
        "needed. Check the microphone and its gain, then record again."
    )


def _mean(samples: npt.NDArray[Any]) -> FloatArray:
    """Average over the channels; float64 sums keep one int32 channel exact."""
    if samples.shape[1] == 1:
        return samples[:, 0].astype(np.float32)
    mono: npt.NDArray[np.float64] = samples.mean(axis=1, dtype=np.float64)
    return mono.astype(np.float32)


def _check_values(samples: npt.NDArray[Any], *, name: str) -> None:
    """Refuse NaN, infinity and floats that were never scaled to [-1, 1]."""
    if samples.size == 0:
        return
    # Both extremes carry NaN; an abs() would copy the whole clip.
    peak = max(float(samples.max()), -float(samples.min()))
    if not math.isfinite(peak):
        raise AudioFormatError(
            f"{name} holds NaN or infinite samples. Repair the step that made it; "
            "they would reach the model as noise."
        )
    if peak > MAX_PEAK:
        raise AudioFormatError(
            f"{name} has float samples up to {peak:g}, far outside [-1, 1]: they "
            "look like integers stored as floats. Divide them by full scale (32768 "
            "for 16 bit), or pass the integer array."
        )
