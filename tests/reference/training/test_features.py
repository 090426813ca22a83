from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from sarguard.reference.training.features import (
    TAIL,
    WIDTH_MULTIPLE,
    augment_waveform,
    collate,
    log_mel,
    mask,
)
from tests.reference.training.students import spoken
from tests.tiny import clip

EXTRACTOR = WhisperFeatureExtractor(feature_size=80)
SEEDS = range(40)
LOWEST = (-10 + 4) / 4


def ends_loudly(samples: int) -> np.ndarray:
    """Return a quiet clip whose last sample is the loudest."""
    found = 0.01 * clip(samples / 16_000)
    found[-50:] = np.linspace(0.1, 1.0, 50)
    return found


def starts_with_silence(samples: int) -> np.ndarray:
    return np.concatenate([np.zeros(4_000, np.float32), clip(samples / 16_000)[4_000:]])


def real(samples: np.ndarray) -> tuple[torch.Tensor, int]:
    """Return what the model's own extractor makes of a clip padded to 30 s."""
    found = EXTRACTOR(
        samples,
        sampling_rate=16_000,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return found["input_features"][0], int(found["attention_mask"].sum())


CLIPS = {
    "whole frames": clip(1.0),
    "one sample more": clip(16_001 / 16_000),
    "one sample less": clip(15_999 / 16_000),
    "half a frame": clip(20_080 / 16_000),
    "ends loudly": ends_loudly(16_000),
    "ends loudly inside a frame": ends_loudly(17_003),
    "starts with silence": starts_with_silence(12_345),
    "nearly silent": 1e-5 * clip(0.7),
    "digital silence": np.zeros(9_000, np.float32),
}


@pytest.mark.parametrize("samples", CLIPS.values(), ids=CLIPS.keys())
def test_a_clip_has_the_frames_of_the_real_extractor(samples: np.ndarray) -> None:
    found = log_mel(samples, EXTRACTOR)
    expected, frames = real(samples)
    assert found.shape == (80, frames + TAIL)
    torch.testing.assert_close(found, expected[:, : frames + TAIL], atol=1e-4, rtol=0)


def test_a_batch_is_padded_as_the_real_extractor_pads() -> None:
    features, lengths = collate([log_mel(x, EXTRACTOR) for x in CLIPS.values()])
    assert features.shape[2] % WIDTH_MULTIPLE == 0
    assert features.shape[2] >= int(lengths.max()) + TAIL
    for row, length, samples in zip(features, lengths, CLIPS.values(), strict=True):
        expected, frames = real(samples)
        assert int(length) == frames
        torch.testing.assert_close(
            row, expected[:, : features.shape[2]], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_disturbing_keeps_a_sound_clip(seed: int) -> None:
    samples = spoken(0.8, seed=1)
    before = samples.copy()
    found = augment_waveform(samples, random.Random(seed))
    assert found.dtype == np.float32
    assert found.ndim == 1
    assert np.isfinite(found).all()
    assert len(samples) / 1.13 < len(found) < len(samples) * 1.13 + 0.71 * 16_000
    np.testing.assert_array_equal(found, augment_waveform(samples, random.Random(seed)))
    np.testing.assert_array_equal(samples, before)


def test_disturbing_varies_with_the_seed() -> None:
    found = {
        augment_waveform(spoken(0.8, seed=1), random.Random(s)).tobytes() for s in SEEDS
    }
    assert len(found) == len(SEEDS)


def test_a_silent_clip_is_disturbed_without_a_fault() -> None:
    silent = np.zeros(8_000, np.int16)
    for seed in SEEDS:
        assert np.isfinite(augment_waveform(silent, random.Random(seed))).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_masking_keeps_the_form(seed: int) -> None:
    features = log_mel(clip(0.5), EXTRACTOR)
    before = features.clone()
    found = mask(features, random.Random(seed))
    assert found.shape == features.shape
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert float(found.min()) >= LOWEST
    assert float(found.max()) <= float(features.max()) + 1e-6
    assert torch.equal(found, mask(features, random.Random(seed)))
    assert torch.equal(features, before)


def test_masking_changes_most_clips() -> None:
    features = log_mel(clip(0.5), EXTRACTOR)
    found = [mask(features, random.Random(seed)) for seed in SEEDS]
    changed = [not torch.equal(features, other) for other in found]
    assert len(SEEDS) / 2 < sum(changed) < len(SEEDS)
