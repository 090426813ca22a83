"""Speak sentences with the synthesisers espeak-ng and flite."""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soxr  # type: ignore[import-untyped]

from sarguard.errors import MissingDependencyError

SAMPLE_RATE = 16_000

ESPEAK_ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
)
ESPEAK_VARIANTS = (
    "",
    *(f"+m{i}" for i in range(1, 8)),
    *(f"+f{i}" for i in range(1, 6)),
)
FLITE_VOICES = ("kal", "kal16", "awb", "slt")
HELD_OUT_VOICES = ("flite:rms", "espeak:en-029")
"""Voices that no training clip uses; the unseen-voice figures are theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One setting of one synthesiser."""

    engine: Literal["espeak", "flite"]
    name: str
    rate: float
    """espeak-ng: words a minute. flite: duration stretch, 1.0 is neutral."""
    pitch: int
    """espeak-ng: 0 to 99. Ignored by flite."""

    def command(self, text: str) -> list[str]:
        """Return the command that writes a WAV of ``text`` to standard output."""
        if self.engine == "espeak":
            manner = ["-s", str(round(self.rate)), "-p", str(self.pitch)]
            return ["espeak-ng", "-v", self.name, *manner, "--stdout", text]
        manner = ["--setf", f"duration_stretch={self.rate:.2f}"]
        return ["flite", "-voice", self.name, *manner, "-t", text, "-o", "/dev/stdout"]


def draw_voice(rng: random.Random) -> Voice:
    """Draw a training voice: flite for two clips in five, espeak-ng for the rest."""
    if rng.random() < 0.42:
        name = rng.choice(FLITE_VOICES)
        return Voice(engine="flite", name=name, rate=rng.uniform(0.85, 1.2), pitch=50)
    name = rng.choice(ESPEAK_ACCENTS) + rng.choice(ESPEAK_VARIANTS)
    return Voice(
        engine="espeak",
        name=name,
        rate=rng.randint(130, 190),
        pitch=rng.randint(25, 75),
    )


def held_out_voice(rng: random.Random) -> Voice:
    """Draw one of the voices that training never uses."""
    if rng.random() < 0.5:
        return Voice(engine="flite", name="rms", rate=1.0, pitch=50)
    return Voice(engine="espeak", name="en-029", rate=160, pitch=50)


def require_synthesisers() -> None:
    """Raise `MissingDependencyError` unless espeak-ng and flite can be run."""
    missing = [name for name in ("espeak-ng", "flite") if shutil.which(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Speaking the training sentences needs {' and '.join(missing)}, not found "
            f"on PATH. On Debian or Ubuntu: apt-get install {' '.join(missing)}"
        )


def speak(text: str, voice: Voice) -> np.ndarray:
    """Return ``text`` spoken by ``voice``: mono int16 at 16 kHz, peak 0.7.

    Raises:
        subprocess.CalledProcessError: The synthesiser failed.
    """
    wav = subprocess.run(
        voice.command(text), check=True, capture_output=True, timeout=60
    ).stdout
    samples, rate = _read_stream(wav)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    peak = max(1e-4, float(np.abs(samples).max(initial=0.0)))
    return np.rint(samples / peak * 0.7 * 32767).astype(np.int16)


def _read_stream(wav: bytes) -> tuple[np.ndarray, int]:
    """Read a WAV whose header may not know its length (written to a pipe)."""
    rate = int.from_bytes(wav[24:28], "little")
    start = wav.index(b"data") + 8
    body = wav[start : start + (len(wav) - start) // 2 * 2]
    return np.frombuffer(body, dtype="<i2").astype(np.float32) / 32768, rate
