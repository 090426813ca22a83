from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from sarguard.errors import InsufficientDataError
from sarguard.evaluation.data.sounds import (
    add_sound,
    change_gain,
    find_middle,
    halves,
    join,
    mix_voices,
    mu_law,
    over_telephone,
    pad,
    street_noise,
)
from tests import tiny

RATE = 16_000


def mu_law_of_one(value: float) -> float:
    """Return one sample after a mu-law codec, by the standard's description."""
    whole = math.floor(value * 8192)
    biased = min(abs(whole), 8158) + 33
    # The segment is where the highest bit stands; four bits below it are kept.
    segment = biased.bit_length() - 6
    step = (biased >> (segment + 1)) & 15
    decoded = ((2 * step + 33) << segment) - 33
    return math.copysign(decoded, whole) / 8192


def test_mu_law_is_the_codec_of_telephones() -> None:
    values = np.linspace(-1, 1, 5001)
    np.testing.assert_allclose(
        mu_law(values), [mu_law_of_one(float(v)) for v in values], atol=1e-12
    )
    with warnings.catch_warnings():
        # Python had the same codec until 3.12.
        warnings.simplefilter("ignore")
        audioop = pytest.importorskip("audioop")
    whole = np.arange(-32768, 32768, dtype=np.int16)
    coded = audioop.ulaw2lin(audioop.lin2ulaw(whole.tobytes(), 2), 2)
    expected = np.frombuffer(coded, dtype=np.int16)
    np.testing.assert_array_equal(mu_law(whole / 32768) * 32768, expected)


def test_a_telephone_passes_its_band_and_keeps_the_length() -> None:
    time = np.arange(RATE) / RATE
    for hertz, passes in ((100, False), (1000, True), (3900, False), (6000, False)):
        tone = (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
        heard = over_telephone(tone, RATE)
        assert heard.shape == tone.shape
        assert heard.dtype == np.float32
        power = float(np.sqrt(np.mean(heard[2000:-2000] ** 2)))
        assert (power > 0.3) is passes
        assert (power < 0.05) is not passes
    assert len(np.unique(over_telephone(tiny.clip(1.0), 8_000))) <= 256


@pytest.mark.parametrize("decibels", [0.0, 10.0])
def test_a_noise_is_as_loud_as_it_should_be(decibels: float) -> None:
    clip = 0.2 * tiny.clip(2.0)
    for noise in (
        street_noise(len(clip), RATE, seed=3),
        mix_voices([tiny.clip(0.7, pitch=300), tiny.clip(1.1)], 9000),
    ):
        added = add_sound(clip, noise, decibels=decibels) - clip
        ratio = 10 * np.log10(np.mean(clip**2) / np.mean(added**2))
        assert ratio == pytest.approx(decibels, abs=0.1)


def test_street_noise_is_low_and_swells() -> None:
    noise = street_noise(4 * RATE, RATE, seed=1)
    np.testing.assert_array_equal(noise, street_noise(4 * RATE, RATE, seed=1))
    assert not np.array_equal(noise, street_noise(4 * RATE, RATE, seed=2))
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(len(noise), 1 / RATE)
    assert spectrum[hertz < 500].sum() > 5 * spectrum[hertz > 2000].sum() > 0
    loud = [float(np.std(part)) for part in np.split(noise, 8)]
    assert max(loud) > 1.5 * min(loud)


def test_a_babble_needs_voices() -> None:
    with pytest.raises(InsufficientDataError):
        mix_voices([], 100)
    assert mix_voices([tiny.clip(0.3)], 20_000).shape == (20_000,)


def test_padding_stands_before_and_behind_and_stays_within_what_is_heard() -> None:
    clip = tiny.clip(1.0)
    padded = pad(clip, RATE, before_s=5, behind_s=2)
    assert len(padded) == 8 * RATE
    assert not padded[: 5 * RATE].any()
    np.testing.assert_allclose(padded[5 * RATE : 6 * RATE], clip)
    assert not padded[6 * RATE :].any()
    noisy = pad(clip, RATE, behind_s=2, noise=0.002)
    assert np.std(noisy[RATE:]) == pytest.approx(0.002, rel=0.05)
    long = pad(np.resize(clip, 20 * RATE), RATE, before_s=5, behind_s=20)
    assert len(long) == 29 * RATE
    assert len(pad(np.resize(clip, 31 * RATE), RATE, behind_s=5)) == 31 * RATE


def test_a_clip_is_cut_where_it_pauses() -> None:
    clip = tiny.clip(1.0).copy()
    clip[7_000:7_600] = 0
    assert 7_000 <= find_middle(clip, RATE) <= 7_600
    first, second = halves(clip, RATE)
    np.testing.assert_array_equal(np.concatenate([first, second]), clip)
    assert find_middle(clip[:100], RATE) == 50


def test_clips_are_joined_with_pauses_and_gain_clips() -> None:
    clip = 0.5 * tiny.clip(0.5)
    joined = join(clip, clip, rate=RATE)
    assert len(joined) == 2 * len(clip) + int(0.4 * RATE)
    quiet = change_gain(clip, decibels=-20)
    np.testing.assert_allclose(quiet, clip / 10, atol=1e-6)
    assert np.abs(change_gain(clip, decibels=40)).max() == 1.0
