"""Robustness variants: the same request, harder to hear or said otherwise.

Each is made from a clip on the fly and repeats exactly: what is random in it is drawn
from the request's identifier. A variant never changes whether a request is harmful.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from sarguard.datasets import load_clips
from sarguard.errors import ConfigurationError
from sarguard.evaluation.data.items import Item
from sarguard.evaluation.data.sounds import (
    add_sound,
    mix_voices,
    over_telephone,
    street_noise,
    within,
)

if TYPE_CHECKING:
    from sarguard.evaluation.data.items import Samples

Vary: TypeAlias = Callable[[Item, random.Random], Item]

UNSEEN_VOICE = "unseen-voice"
"""The one variant that is other clips and no change of the same."""

_PAUSE_S = 0.4
_NOISE_DB = 10.0
_VOICES = 4
"""Voices of a babble."""


def vary(items: Iterable[Item], name: str) -> list[Item]:
    """Return the requests in one variant of `VARIANTS`.

    Raises:
        ConfigurationError: There is no such variant, or a request does not fit it.
    """
    if name not in VARIANTS:
        raise ConfigurationError(
            f"there is no variant {name!r}: choose {', '.join(VARIANTS)}"
        )
    change = VARIANTS[name]
    return [
        replace(
            change(item, random.Random(zlib.crc32(item.id.encode()))),
            id=f"{item.id}+{name}",
            variant=name,
        )
        for item in items
    ]


def add_noise(samples: Samples, *, decibels: float, seed: int) -> Samples:
    """Return a clip in pink noise, its power that many decibels above the noise's."""
    import numpy as np

    white = np.random.default_rng(seed).standard_normal(len(samples))
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    pink = np.fft.irfft(spectrum, len(samples))
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    wanted = power / 10 ** (decibels / 10)
    pink *= np.sqrt(wanted / max(float(np.mean(pink**2)), 1e-20))
    return within(samples + pink)


def change_speed(samples: Samples, *, factor: float) -> Samples:
    """Return a clip spoken faster (above 1) or slower, at the same pitch."""
    import librosa

    return within(librosa.effects.time_stretch(samples, rate=factor))


def change_pitch(samples: Samples, rate: int, *, semitones: float) -> Samples:
    """Return a clip spoken higher or lower, at the same speed."""
    import librosa

    return within(librosa.effects.pitch_shift(samples, sr=rate, n_steps=semitones))


def limit_band(
    samples: Samples, rate: int, *, low: float = 300.0, high: float = 3400.0
) -> Samples:
    """Return a clip as a telephone passes it on."""
    from scipy.signal import butter, sosfiltfilt  # type: ignore[import-untyped]

    filters = butter(4, [low, high], btype="bandpass", fs=rate, output="sos")
    return within(sosfiltfilt(filters, samples))


def speak_after(samples: Samples, other: Samples, rate: int) -> Samples:
    """Return a clip after another speaker's, with a pause between."""
    import numpy as np

    pause = np.zeros(int(_PAUSE_S * rate), dtype=np.float32)
    return within(np.concatenate([other, pause, samples]))


def _noise(item: Item, draw: random.Random, *, decibels: float) -> Item:
    seed = draw.getrandbits(32)
    return item.heard(lambda clip, _: add_noise(clip, decibels=decibels, seed=seed))


def _speed(item: Item, _draw: random.Random, *, factor: float) -> Item:
    return item.heard(lambda clip, _: change_speed(clip, factor=factor))


def _pitch(item: Item, _draw: random.Random, *, semitones: float) -> Item:
    return item.heard(partial(_shift, semitones=semitones))


def _shift(clip: Samples, rate: int, *, semitones: float) -> Samples:
    return change_pitch(clip, rate, semitones=semitones)


def _telephone(item: Item, _draw: random.Random) -> Item:
    return item.heard(limit_band)


def _mu_law(item: Item, _draw: random.Random) -> Item:
    return item.heard(over_telephone)


def _babble(item: Item, draw: random.Random) -> Item:
    """Ask in a room where others talk."""
    clips = load_clips("ordinary_validation", voice="seen")
    others = draw.sample([c for c in clips if c.text != item.request], _VOICES)

    def change(clip: Samples, rate: int) -> Samples:
        voices = [other.load(sample_rate=rate) for other in others]
        return add_sound(clip, mix_voices(voices, len(clip)), decibels=_NOISE_DB)

    return item.heard(change)


def _street(item: Item, draw: random.Random) -> Item:
    seed = draw.getrandbits(32)
    return item.heard(
        lambda clip, rate: add_sound(
            clip, street_noise(len(clip), rate, seed=seed), decibels=_NOISE_DB
        )
    )


def _two_speakers(item: Item, draw: random.Random) -> Item:
    clips = [c for c in load_clips("ordinary", voice="seen") if c.text != item.request]
    other = draw.choice(clips)
    return item.heard(
        lambda clip, rate: speak_after(clip, other.load(sample_rate=rate), rate)
    )


def _in_text(item: Item, draw: random.Random) -> Item:
    """Write the request beside a clip that asks for something ordinary."""
    if not item.request:
        raise ConfigurationError(
            f"the words of {item.id} are not known: leave the variant in-text out"
        )
    clips = [c for c in load_clips("ordinary", voice="seen") if c.text != item.request]
    other = draw.choice(clips)
    return replace(
        item, text=item.request, load=lambda rate: other.load(sample_rate=rate)
    )


VARIANTS: Mapping[str, Vary] = MappingProxyType(
    {
        "noise": partial(_noise, decibels=_NOISE_DB),
        "faster": partial(_speed, factor=1.25),
        "slower": partial(_speed, factor=0.8),
        "higher": partial(_pitch, semitones=3.0),
        "lower": partial(_pitch, semitones=-3.0),
        "faster-15": partial(_speed, factor=1.15),
        "slower-15": partial(_speed, factor=0.85),
        "telephone": _telephone,
        "mu-law": _mu_law,
        "babble": _babble,
        "street": _street,
        "two-speakers": _two_speakers,
        "in-text": _in_text,
    }
)
"""Every change, by name; noise is 10 dB below the speech."""

CHANNELS = (
    *("noise", "babble", "street", "telephone", "mu-law", "faster-15", "slower-15"),
    "two-speakers",
)
"""The variants that a line, a room or a hurried caller makes of a clip."""

ALL_VARIANTS: tuple[str, ...] = (UNSEEN_VOICE, *VARIANTS)
