"""Any clip as the mono samples that a model takes."""

from __future__ import annotations

import numpy as np

from sarguard.audio.decoding import decode
from sarguard.audio.limits import AudioLimits, check_rate
from sarguard.audio.samples import FloatArray, check_audible, read_array
from sarguard.audio.sources import AudioSource, read_source

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
    target = check_rate(sample_rate, name="The argument sample_rate")
    name = "The array"
    if isinstance(source, tuple):
        mono, rate = read_array(source, limits=limits)
    else:
        data, name = read_source(source, limits=limits)
        mono, rate = decode(data, name=name, limits=limits)
    samples = _resample(mono, rate, target)
    # Resampling overshoots at steps, and float files may exceed full scale.
    # In place: decoding and mixing make a fresh array, never the caller's.
    np.clip(samples, -1.0, 1.0, out=samples)
    check_audible(samples, name=name)
    return samples


def _resample(mono: FloatArray, rate: int, target: int) -> FloatArray:
    """Resample with soxr's high quality filter where the rates differ."""
    if rate == target:
        return mono
    # librosa takes a second to import, and a clip at the model's rate does not need it.
    import librosa

    resampled = librosa.resample(mono, orig_sr=rate, target_sr=target)
    return np.ascontiguousarray(resampled, dtype=np.float32)
