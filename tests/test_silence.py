"""Silence around a clip's speech: what is taken for it, and what never is."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sarguard.audio.silence import speech_span
from sarguard.datasets import load_clips

RATE = 16_000
Samples = NDArray[np.float32]


def silence(seconds: float, level: float = 0.0, seed: int = 1) -> Samples:
    noise = np.random.default_rng(seed).normal(size=int(seconds * RATE))
    return (level * noise).astype(np.float32)


@functools.cache
def speech() -> list[Samples]:
    """Return clips from where they are first above -50 dB of full scale to the last.

    Natural voices leave half a second of silence behind them.
    """
    found = []
    for clip in load_clips("demo")[:6]:
        samples = clip.load()
        loud = np.flatnonzero(np.abs(samples) > 10 ** (-50 / 20))
        found.append(samples[loud[0] : loud[-1] + 1])
    return found


def cut(clip: Samples) -> tuple[float, float]:
    span = speech_span(clip, RATE)
    return span.start / RATE, (len(clip) - span.stop) / RATE


@given(
    before=st.floats(0.6, 25),
    after=st.floats(0.6, 25),
    levels=st.tuples(*[st.sampled_from([0.0, 0.0001, 0.001, 0.002])] * 2),
    gain=st.sampled_from([0.3, 1.0]),
    which=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_silence_is_cut_to_its_margin_and_speech_stays(
    before: float,
    after: float,
    levels: tuple[float, float],
    gain: float,
    which: int,
) -> None:
    spoken = speech()[which]
    # A room is heard under the speech as well; its level may change then.
    clip = np.concatenate([silence(before), gain * spoken, silence(after)])
    half = int(before * RATE) + len(spoken) // 2
    clip[:half] += gain * silence(30, levels[0])[:half]
    clip[half:] += gain * silence(30, levels[1])[: len(clip) - half]
    first, last = cut(clip.astype(np.float32))
    assert before - 0.45 <= first <= before + 0.15
    assert after - 0.45 <= last <= after + 0.35


@given(st.integers(0, 5))
@settings(deadline=None)
def test_a_clip_without_long_silences_is_left_as_it_is(which: int) -> None:
    assert cut(speech()[which]) == (0.0, 0.0)


@given(
    st.lists(st.floats(-1, 1, width=32), max_size=4000),
    st.sampled_from([8_000, 16_000, 48_000]),
)
def test_it_is_never_empty_and_inside(samples: list[float], rate: int) -> None:
    clip = np.array(samples, dtype=np.float32)
    span = speech_span(clip, rate)
    assert 0 <= span.start <= span.stop <= len(clip)
    assert span.stop > span.start or not len(clip)


@pytest.mark.parametrize("level", [0.0, 0.001, 0.1])
def test_nothing_but_silence_or_noise_is_left_whole(level: float) -> None:
    assert cut(silence(8.0, level)) == (0.0, 0.0)


@pytest.mark.parametrize("quieter", [0.3, 0.1, 0.03])
@pytest.mark.parametrize("first", [True, False])
def test_quiet_speech_beside_loud_speech_stays(quieter: float, first: bool) -> None:
    # A request that is whispered before loud chatter is heard by the model too.
    one, two = speech()[0], speech()[3]
    parts = [quieter * one, two] if first else [two, quieter * one]
    assert cut(np.concatenate(parts).astype(np.float32)) == (0.0, 0.0)


def levelled(clip: Samples) -> Samples:
    """Return speech that is as loud in every 12 ms, as a compressor makes it."""
    width = int(0.012 * RATE)
    energy = np.convolve(clip.astype(float) ** 2, np.ones(width) / width, mode="same")
    gained = clip / np.sqrt(np.maximum(energy, energy.max() * 1e-5))
    return (0.3 * gained / gained.std()).astype(np.float32)


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("quieter_db", [16, 25, 40, 70])
@pytest.mark.parametrize("over_noise_db", [6, 0])
@pytest.mark.parametrize("pause", [0.0, 5.0])
@pytest.mark.parametrize("first", [True, False])
def test_a_levelled_request_far_below_loud_speech_stays(
    which: int, quieter_db: float, over_noise_db: float, pause: float, first: bool
) -> None:
    hidden = levelled(speech()[which]) * 10 ** (-quieter_db / 20)
    noise = silence(60.0, float(hidden.std()) * 10 ** (-over_noise_db / 20))
    parts = [hidden, np.zeros(int(pause * RATE), np.float32), speech()[1]]
    clip = np.concatenate(parts if first else parts[::-1])
    clip += noise[: len(clip)]
    before, behind = cut(clip)
    assert (before if first else behind) < 0.3


def rms(clip: Samples) -> float:
    return float(np.sqrt(np.mean(clip.astype(float) ** 2)))


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("quieter_db", [16, 30, 61, 70])
@pytest.mark.parametrize("burst", [True, False])
def test_short_words_far_apart_stay(which: int, quieter_db: float, burst: bool) -> None:
    loud = speech()[1]
    gain = rms(loud) / rms(speech()[which]) * 10 ** (-quieter_db / 20)
    spoken, size = gain * speech()[which], int(0.2 * RATE)
    parts = [silence(0.19, rms(loud) * 10 ** (-18 / 20))] if burst else []
    for start in range(0, len(spoken) - size, size):
        parts += [silence(1.1), spoken[start : start + size]]
    before, _ = cut(np.concatenate([*parts, silence(1.1), loud]).astype(np.float32))
    # What is cut holds two of the pieces at most.
    assert before < 4.0


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("under_db", [0, 4, 8])
@pytest.mark.parametrize("first", [True, False])
def test_a_request_in_a_gap_of_noise_stays(
    which: int, under_db: float, first: bool
) -> None:
    loud, hidden = speech()[1], speech()[which]
    noise = rms(loud) * 10 ** (-20 / 20)
    hidden = hidden * (noise / rms(hidden) * 10 ** (-under_db / 20))
    around = [silence(5.0, noise, seed=1), hidden, silence(5.0, noise, seed=2)]
    parts = [*around, loud] if first else [loud, *around]
    before, behind = cut(np.concatenate(parts).astype(np.float32))
    # The noise may be cut up to where the request stands out of it.
    assert (before if first else behind) < 5.0 + 0.35


def test_a_click_in_the_silence_is_no_speech() -> None:
    quiet = silence(5.0, 0.0001)
    quiet[RATE] = 0.9
    first, _ = cut(np.concatenate([quiet, speech()[0]]))
    assert first == pytest.approx(4.8, abs=0.3)


def test_a_constant_offset_is_silence() -> None:
    clip = np.concatenate([silence(3.0), speech()[0], silence(3.0)])
    assert cut(clip + np.float32(0.05)) == cut(clip)
