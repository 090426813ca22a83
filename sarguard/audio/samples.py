"""Arrays of samples, brought to mono float32 whatever they were stored as."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from sarguard.audio.limits import AudioLimits, check_rate
from sarguard.errors import AudioEmptyError, AudioFormatError, AudioSilentError

FloatArray: TypeAlias = npt.NDArray[np.float32]

MAX_PEAK = 2.0
"""The loudest float sample that is clipped; a louder one was scaled wrongly."""

SILENCE_DBFS = -60.0
"""The peak, in dB of full scale, below which a clip holds no speech."""

MIN_MIXED = 0.1
"""Share of the strongest channel's power that an average of channels has to keep. Two
unlike channels keep a half, one of two a quarter."""

_ARRAY = "The array"
# Full scale is the most negative value, so that every sample is in [-1, 1). 8-bit
# samples are unsigned and rest at 128.
_INTEGER_SCALES = {
    np.dtype(np.int16): (0.0, 2.0**15),
    np.dtype(np.int32): (0.0, 2.0**31),
    np.dtype(np.uint8): (128.0, 128.0),
}
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Mono(NamedTuple):
    """One channel, and a word on how it was made where it is no average of all."""

    samples: FloatArray
    note: str | None = None


def read_array(clip: tuple[Any, ...], *, limits: AudioLimits) -> tuple[Mono, int]:
    """Mix an (array, rate) pair down to mono float32 samples and its rate.

    Raises:
        AudioError: if the pair, its rate, shape, dtype, length or values are
            unusable.
    """
    array, rate = _unpack(clip)
    frames_first = _frames_first(array, max_channels=limits.max_channels)
    limits.check_channels(frames_first.shape[1], name=_ARRAY)
    limits.check_length(len(frames_first), rate, name=_ARRAY)
    return mix_down(frames_first, name=_ARRAY), rate


def mix_down(samples: npt.NDArray[Any], *, name: str) -> Mono:
    """Mix the channels of `samples` into one float32 channel; see `mix`.

    Args:
        samples: shape (frames, channels); int16, int32, uint8, float32 or float64.
        name: what to call the clip in an error.

    Returns:
        Shape (frames,), a fresh array, finite and within `MAX_PEAK`.

    Raises:
        AudioFormatError: on another dtype, NaN, infinity or values far outside
            [-1, 1].
    """
    # Byte order aside: samples from a big-endian file have a dtype of their own.
    native = samples.dtype.newbyteorder("=")
    if native in _FLOATS:
        _check_values(samples, name=name)
        return mix(samples)
    if native not in _INTEGER_SCALES:
        raise AudioFormatError(
            f"{name} has dtype {samples.dtype}: give int16, int32, uint8, float32 "
            "or float64 samples."
        )
    offset, scale = _INTEGER_SCALES[native]
    centred = samples.astype(np.float64) - offset
    mono, note = mix(centred)
    return Mono((mono / np.float32(scale)).astype(np.float32), note)


def check_audible(mono: FloatArray, *, name: str) -> None:
    """Refuse a clip whose peak about its mean is below `SILENCE_DBFS`."""
    # About the mean: a constant offset moves the peak and makes no sound.
    mean = float(mono.mean(dtype=np.float64))
    peak = max(float(mono.max()) - mean, mean - float(mono.min()))
    if peak >= 10 ** (SILENCE_DBFS / 20):
        return
    found = f"{20 * math.log10(peak):.1f} dBFS" if peak > 0 else "digital silence"
    raise AudioSilentError(
        f"{name} is silent: found a peak of {found}, at least {SILENCE_DBFS:g} dBFS "
        "needed. Check the microphone and its gain, then record again."
    )


def _unpack(clip: tuple[Any, ...]) -> tuple[npt.NDArray[Any], int]:
    """Split a clip into its array and its rate, and refuse anything else."""
    if len(clip) != 2:
        raise AudioFormatError(
            f"A tuple of {len(clip)} items is not a clip: pass (array, rate)."
        )
    array, rate = clip
    if _is_tensor(array):
        # numpy has no bfloat16; float32 holds every 16-bit float exactly.
        is_half = array.is_floating_point() and array.element_size() == 2
        array = (array.float() if is_half else array).detach().cpu().numpy()
    if isinstance(rate, np.ndarray) and not isinstance(array, np.ndarray):
        raise AudioFormatError(
            f"The tuple holds ({type(array).__name__}, array): swap it, a clip is "
            "(array, rate)."
        )
    if not isinstance(array, np.ndarray):
        raise AudioFormatError(
            f"The tuple holds a {type(array).__name__} where its samples should be: "
            "pass (numpy array or torch tensor, rate)."
        )
    return array, check_rate(rate, name=_ARRAY)


def _is_tensor(array: object) -> bool:
    # By name: an isinstance check would import torch for clips that need none.
    kind = type(array)
    return kind.__module__ == "torch" and kind.__name__ == "Tensor"


def _frames_first(array: npt.NDArray[Any], *, max_channels: int) -> npt.NDArray[Any]:
    """View an array as (frames, channels).

    The channel axis is the one of at most `max_channels` while the other is longer
    than that; a shape for which this names no axis, or both, is refused.
    """
    if array.ndim == 1:
        return array[:, np.newaxis]
    if array.ndim != 2:
        raise AudioFormatError(
            f"{_ARRAY} has shape {array.shape}: give (samples,), (channels, samples) "
            "or (samples, channels)."
        )
    if max(array.shape) == 0:
        raise AudioEmptyError(f"{_ARRAY} is empty: found shape {array.shape}.")
    narrow = [axis for axis in (0, 1) if array.shape[axis] <= max_channels]
    if not narrow:
        raise AudioFormatError(
            f"{_ARRAY} has shape {array.shape}: neither axis can be the channels, "
            f"allowed 1 to {max_channels}. Pass the channel that holds the speech."
        )
    if len(narrow) == 2:
        raise AudioFormatError(
            f"{_ARRAY} has shape {array.shape}: either axis could be the channels "
            f"(up to {max_channels}). Pass one channel of shape (samples,)."
        )
    return array.T if narrow == [0] else array


def mix(samples: npt.NDArray[Any]) -> Mono:
    """Average over the channels, or take the strongest where that loses the sound.

    Channels of opposite phase (a balanced line, some laptops) cancel in an average, and
    one microphone among many idle channels becomes faint in it.

    Args:
        samples: Shape (frames, channels), at rest at 0.

    Returns:
        Shape (frames,).
    """
    if samples.shape[1] == 1:
        return Mono(samples[:, 0].astype(np.float32))
    # float64 sums keep int32 samples exact.
    mono: npt.NDArray[np.float64] = samples.mean(axis=1, dtype=np.float64)
    if len(mono) == 0:
        return Mono(mono.astype(np.float32))
    powers = [
        float(np.var(samples[:, channel], dtype=np.float64))
        for channel in range(samples.shape[1])
    ]
    strongest = int(np.argmax(powers))
    if float(np.var(mono)) < MIN_MIXED * powers[strongest]:
        note = (
            f"the average of its {samples.shape[1]} channels lost the sound, so "
            f"channel {strongest + 1}, the strongest, was heard alone"
        )
        return Mono(samples[:, strongest].astype(np.float32), note)
    return Mono(mono.astype(np.float32))


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
