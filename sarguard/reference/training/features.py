"""Log-mel features of samples, in batches, as the audio tower takes them.

Equal, frame for frame, to `WhisperFeatureExtractor` on a clip padded to 30 s,
but computed for the clip's own length: forty times less work for short speech.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import soxr  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WhisperFeatureExtractor

SAMPLE_RATE = 16_000
HOP = 160
WIDTH_MULTIPLE = 32
"""Batch widths are multiples of this, so that few shapes are met."""
TAIL = 4
"""Frames kept past the clip's end: windows and convolutions reach over it."""


def log_mel(samples: np.ndarray, extractor: WhisperFeatureExtractor) -> Tensor:
    """Return log-mel features of shape (mel bins, ceil(samples / 160) + TAIL)."""
    frames = -(-len(samples) // HOP) + TAIL
    padded = F.pad(torch.from_numpy(samples).float(), (0, TAIL * extractor.n_fft))
    window = torch.hann_window(extractor.n_fft)
    spectrum = torch.stft(
        padded, extractor.n_fft, HOP, window=window, return_complex=True
    )
    power = spectrum[:, :frames].abs() ** 2
    filters = torch.from_numpy(extractor.mel_filters).float()
    log = (filters.T @ power).clamp(min=1e-10).log10()
    log = torch.maximum(log, log.max() - 8.0)
    return (log + 4.0) / 4.0


def collate(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad features to one length with each clip's own silence.

    Returns:
        Features (batch, mel bins, frames), frames a multiple of `WIDTH_MULTIPLE`, and
        each clip's own frames (batch,), without the tail.
    """
    lengths = torch.tensor([f.shape[1] - TAIL for f in features])
    width = -(-(int(lengths.max()) + TAIL) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    padded = [F.pad(f, (0, width - f.shape[1]), value=_silence(f)) for f in features]
    return torch.stack(padded), lengths


def _silence(features: Tensor) -> float:
    """Return a clip's value of digital silence: -10, or 8 below its peak."""
    peak = float(features.max()) * 4.0 - 4.0
    return (max(-10.0, peak - 8.0) + 4.0) / 4.0


def augment_waveform(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return the int16 clip as float32 with speed, room, noise and band varied."""
    noise_rng = np.random.default_rng(rng.getrandbits(32))
    clip: np.ndarray = samples.astype(np.float32) / 32768
    if rng.random() < 0.6:
        clip = soxr.resample(
            clip, SAMPLE_RATE, SAMPLE_RATE * rng.uniform(0.86, 1.2), quality="LQ"
        )
    if rng.random() < 0.15:
        clip = soxr.resample(
            soxr.resample(clip, 2, 1, quality="LQ"), 1, 2, quality="LQ"
        )
    lead, trail = rng.uniform(0, 0.35), rng.uniform(0.05, 0.35)
    clip = np.pad(clip, (int(lead * SAMPLE_RATE), int(trail * SAMPLE_RATE)))
    if rng.random() < 0.2:
        clip = in_a_room(clip, rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.7), noise_rng)
    if rng.random() < 0.5:
        noise: np.ndarray = noise_rng.standard_normal(len(clip)).astype(np.float32)
        if rng.random() < 0.5:
            noise = np.convolve(noise, np.ones(8, np.float32) / 8, mode="same")
        level = np.sqrt(np.mean(clip**2)) / (np.sqrt(np.mean(noise**2)) + 1e-9)
        clip = clip + noise * level * 10 ** (-rng.uniform(8, 40) / 20)
    return clip.astype(np.float32)


def in_a_room(
    clip: np.ndarray, seconds: float, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a clip with a room's reverberation, of the same length.

    The room's response is the direct sound, and noise that decays exponentially
    (Polack's model of late reverberation).

    Args:
        clip: Samples at 16 kHz, float32.
        seconds: Time in which the reverberation falls by 60 dB.
        share: Amplitude of the reverberation relative to the direct sound.
        rng: Draws the noise.
    """
    count = int(seconds * SAMPLE_RATE)
    decay = 10.0 ** (-3.0 * np.arange(count) / count)
    tail = rng.standard_normal(count) * decay
    response = share * tail / np.sqrt(np.sum(tail**2))
    response[0] += 1.0
    size = 1 << (len(clip) + count - 1).bit_length()
    spectrum = np.fft.rfft(clip, size) * np.fft.rfft(response, size)
    heard: np.ndarray = np.fft.irfft(spectrum, size)[: len(clip)]
    return heard.astype(np.float32)


def mask(features: Tensor, rng: random.Random) -> Tensor:
    """Return the features, mel bins warped and short spans blanked (SpecAugment)."""
    bins, frames = features.shape
    if rng.random() < 0.5:
        features = _warp_bins(features, rng.uniform(0.88, 1.12))
    features = features.clone()
    fill = _silence(features)
    if rng.random() < 0.4:
        width = rng.randint(1, 10)
        start = rng.randrange(bins - width)
        features[start : start + width] = fill
    if rng.random() < 0.4:
        width = min(rng.randint(1, 10), frames // 4)
        start = rng.randrange(frames - width)
        features[:, start : start + width] = fill
    return features


def _warp_bins(features: Tensor, factor: float) -> Tensor:
    """Stretch the frequency axis, as a longer or shorter vocal tract would."""
    bins = features.shape[0]
    place = torch.arange(bins) * factor
    low = place.floor().long().clamp(max=bins - 1)
    high = (low + 1).clamp(max=bins - 1)
    part = (place - place.floor())[:, None]
    return features[low] * (1 - part) + features[high] * part
