"""The voice of every clip, chosen by a hash of its pair's identifier.

Both clips of a pair share a voice, a speed and a pitch. Voices of the `seen` group may
occur in the reference model's training data; nearly half of the clips are in natural
ones. Those of the `unseen` group are two natural voices that never do, and only the
held-out splits are also spoken in them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from sarguard.datasets.natural import (
    HIBARI_VOICE,
    KOKORO_VOICES,
    UNSEEN_KOKORO_VOICE,
    UNSEEN_PIPER_VOICE,
)

Engine = Literal["espeak-ng", "flite", "hibari", "kokoro", "piper"]
VoiceGroup = Literal["seen", "unseen"]

ESPEAK_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland")
ESPEAK_VARIANTS = (
    "",
    *(f"+m{number}" for number in range(1, 8)),
    *(f"+f{number}" for number in range(1, 6)),
)
FLITE_VOICES = ("kal16", "awb", "slt")
_SHARES = (0.28, 0.28, 0.29, 0.15)
"""Of espeak-ng, flite, hibari and Kokoro among the seen voices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Settings of a speech synthesiser."""

    engine: Engine
    name: str
    """Of Kokoro a mixture, such as `jf_alpha*0.7+jm_kumo*0.3`."""
    speed: float
    """Words a minute for espeak-ng, stretch of the duration for flite; of the natural
    ones the speed relative to their own."""
    pitch: int | None
    """0 to 99 for espeak-ng, mean in hertz for flite; None where it has no effect."""


def choose_voice(source: str, group: VoiceGroup) -> Voice:
    """Return the voice of a pair, or of an unpaired request.

    Args:
        source: Identifier of the row in texts.jsonl; both of a pair share it.
        group: Whether the voice may occur in training data.
    """
    seed = sha256(f"{group}/{source}".encode()).digest()
    generator = random.Random(int.from_bytes(seed[:8], "big"))
    if group == "unseen":
        return _unseen_voice(generator)
    makers = (_espeak_voice, _flite_voice, _hibari_voice, _kokoro_voice)
    (make,) = generator.choices(makers, _SHARES)
    return make(generator)


def kokoro_mixture(generator: random.Random) -> str:
    """Draw a mixture of Kokoro's seen voices, at least half of it one of them."""
    first, second = generator.sample(KOKORO_VOICES, 2)
    share = round(generator.uniform(0.5, 1.0), 2)
    return f"{first}*{share}+{second}*{round(1 - share, 2)}"


def _unseen_voice(generator: random.Random) -> Voice:
    if generator.random() < 0.5:
        return Voice(engine="piper", name=UNSEEN_PIPER_VOICE, speed=1.0, pitch=None)
    speed = round(generator.uniform(0.9, 1.1), 2)
    name = f"{UNSEEN_KOKORO_VOICE}*1.0"
    return Voice(engine="kokoro", name=name, speed=speed, pitch=None)


def _espeak_voice(generator: random.Random) -> Voice:
    return Voice(
        engine="espeak-ng",
        name=generator.choice(ESPEAK_ACCENTS) + generator.choice(ESPEAK_VARIANTS),
        speed=generator.randint(135, 180),
        pitch=generator.randint(30, 70),
    )


def _flite_voice(generator: random.Random) -> Voice:
    return Voice(
        engine="flite",
        name=generator.choice(FLITE_VOICES),
        speed=round(generator.uniform(0.9, 1.15), 2),
        pitch=generator.randint(90, 175),
    )


def _hibari_voice(generator: random.Random) -> Voice:
    speed = round(generator.uniform(0.85, 1.2), 2)
    return Voice(engine="hibari", name=HIBARI_VOICE, speed=speed, pitch=None)


def _kokoro_voice(generator: random.Random) -> Voice:
    speed = round(generator.uniform(0.9, 1.15), 2)
    return Voice(
        engine="kokoro", name=kokoro_mixture(generator), speed=speed, pitch=None
    )
