"""The voice of every clip, chosen by a hash of its pair's identifier.

Both clips of a pair share a voice, a speed and a pitch. Voices of the `seen` group may
occur in the reference model's training data; those of the `unseen` group never do, and
only the held-out splits are also spoken in them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

Engine = Literal["espeak-ng", "flite"]
VoiceGroup = Literal["seen", "unseen"]

ESPEAK_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland")
ESPEAK_VARIANTS = (
    "",
    *(f"+m{number}" for number in range(1, 8)),
    *(f"+f{number}" for number in range(1, 6)),
)
FLITE_VOICES = ("kal16", "awb", "slt")
UNSEEN_FLITE_VOICE = "rms"
UNSEEN_ESPEAK_VOICE = "en-029"


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Settings of a speech synthesiser."""

    engine: Engine
    name: str
    group: VoiceGroup
    speed: float
    """Words a minute for espeak-ng, stretch of the duration for flite."""
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
    if generator.random() < 0.5:
        return _espeak_voice(generator, group)
    return _flite_voice(generator, group)


def _espeak_voice(generator: random.Random, group: VoiceGroup) -> Voice:
    name = UNSEEN_ESPEAK_VOICE
    if group == "seen":
        name = generator.choice(ESPEAK_ACCENTS) + generator.choice(ESPEAK_VARIANTS)
    return Voice(
        engine="espeak-ng",
        name=name,
        group=group,
        speed=generator.randint(135, 180),
        pitch=generator.randint(30, 70),
    )


def _flite_voice(generator: random.Random, group: VoiceGroup) -> Voice:
    name = UNSEEN_FLITE_VOICE if group == "unseen" else generator.choice(FLITE_VOICES)
    speed = round(generator.uniform(0.9, 1.15), 2)
    # The unit-selection voice rms ignores the pitch target.
    pitch = None if name == UNSEEN_FLITE_VOICE else generator.randint(90, 175)
    return Voice(engine="flite", name=name, group=group, speed=speed, pitch=pitch)
