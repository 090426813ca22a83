"""Any clip as the mono samples that a model takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from sarguard.audio.decoding import decode
from sarguard.audio.limits import AudioLimits, check_rate
from sarguard.audio.samples import FloatArray, Mono, check_audible, read_array
from sarguard.audio.sources import AudioSource, read_source
from sarguard.logs import get_logger

_log = get_logger(__name__)
_DEFAULT_LIMITS = AudioLimits()


def load_audio(
    source: AudioSource, *, sample_rate: int, limits: AudioLimits = _DEFAULT_LIMITS
) -> FloatArray:
    """Load a clip as mono float32 samples at a model's rate.

    Safe to call from many threads at once.

    Args:
        source: a path; the bytes of a file; a file open for reading in binary mode,
            read from its current position; or (array, rate in Hz), an array of shape
            (samples,), (channels, samples) or (samples, channels) and dtype int16,
            int32, uint8, float32 or float64, floats in [-1, 1].
        sample_rate: the rate to resample to, in Hz.
        limits: what to refuse before it is decoded.

    Returns:
        Shape (samples,), float32, contiguous, finite and in [-1, 1]; never a view of
        the source.

    Raises:
        AudioNotFoundError: no readable file at a path, or the path is a URL.
        AudioEmptyError: no bytes or no samples.
        AudioDecodeError: not audio, damaged, or shorter than its header says.
        AudioFormatError: an unusable rate, channel count, shape, dtype or value.
        AudioTooShortError: less than `limits.min_seconds`.
        AudioTooLongError: more than `limits.max_seconds` or `limits.max_bytes`.
        AudioSilentError: a peak below -60 dBFS.
    """
    return load_clip(source, sample_rate=sample_rate, limits=limits).samples


def load_clip(
    source: AudioSource, *, sample_rate: int, limits: AudioLimits = _DEFAULT_LIMITS
) -> Mono:
    """Load a clip as `load_audio` does, with a word on what was done to it."""
    target = check_rate(sample_rate, name="The argument sample_rate")
    name = "The array"
    if isinstance(source, tuple):
        mono, rate = read_array(source, limits=limits)
    else:
        data, name = read_source(source, limits=limits)
        mono, rate = decode(data, name=name, limits=limits)
    samples = _resample(mono.samples, rate, target)
    # Resampling overshoots at steps, and float files may exceed full scale.
    # In place: decoding and mixing make a fresh array, never the caller's.
    np.clip(samples, -1.0, 1.0, out=samples)
    check_audible(samples, name=name)
    return Mono(samples, mono.note)


def _resample(mono: FloatArray, rate: int, target: int) -> FloatArray:
    """Resample with soxr's high quality filter where the rates differ."""
    if rate == target:
        return mono
    return np.ascontiguousarray(_resampler()(mono, rate, target), dtype=np.float32)


def warm_up() -> None:
    """Import what a clip of another rate than the model's needs, a second's work."""
    _resampler()


@cache
def _resampler() -> Callable[[FloatArray, int, int], npt.NDArray[np.float32]]:
    """Return librosa's resampling, or where it cannot run soxr's, which it calls."""
    try:
        import librosa

        # Now: numba, which librosa compiles with, fails where it may write its cache
        # to no directory, as in a container with a read-only file system.
        librosa.resample(np.zeros(16, np.float32), orig_sr=8_000, target_sr=16_000)
    except Exception as error:
        _log.info("librosa cannot run here", fault=type(error).__name__)
        return _resample_by_soxr
    return lambda mono, rate, target: librosa.resample(
        mono, orig_sr=rate, target_sr=target
    )


def _resample_by_soxr(
    mono: FloatArray, rate: int, target: int
) -> npt.NDArray[np.float32]:
    """Return what librosa does: soxr's, of the length that the rates say."""
    import soxr  # type: ignore[import-untyped]

    size = math.ceil(len(mono) * (target / rate))
    found = soxr.resample(mono, rate, target, quality="HQ")
    return np.pad(found, (0, max(0, size - len(found))))[:size]
