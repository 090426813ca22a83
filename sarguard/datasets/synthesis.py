"""A sentence spoken by one of five synthesisers."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from sarguard.datasets.natural import speak_hibari, speak_kokoro, speak_piper

if TYPE_CHECKING:
    import numpy as np

    from sarguard.datasets.voices import Voice


def say(text: str, voice: Voice) -> tuple[np.ndarray, int]:
    """Return what a voice says, mono float32, and its rate in samples a second.

    espeak-ng and flite give the same samples each time. The natural ones draw noise.

    Raises:
        MissingDependencyError: A natural voice's package is not installed.
        subprocess.SubprocessError: The synthesiser failed, or took a minute.
        OSError: The synthesiser is not installed.
    """
    if voice.engine == "hibari":
        return speak_hibari(text, speed=voice.speed)
    if voice.engine == "kokoro":
        return speak_kokoro(text, mixture(voice.name), speed=voice.speed)
    if voice.engine == "piper":
        return speak_piper(text)
    run = subprocess.run(
        command(text, voice), check=True, capture_output=True, timeout=60
    )
    return _read_stream(run.stdout)


def command(text: str, voice: Voice) -> list[str]:
    """Return the command that writes a WAV of ``text`` to standard output."""
    if voice.engine == "espeak-ng":
        manner = ["-s", f"{voice.speed:.0f}", "-p", str(voice.pitch)]
        return ["espeak-ng", "-v", voice.name, *manner, "--stdout", text]
    manner = ["--setf", f"duration_stretch={voice.speed:.2f}"]
    if voice.pitch is not None:
        manner += ["--setf", f"int_f0_target_mean={voice.pitch}"]
    return ["flite", "-voice", voice.name, *manner, "-t", text, "-o", "/dev/stdout"]


def mixture(name: str) -> dict[str, float]:
    """Return the share of each of Kokoro's voices in a mixture's name."""
    parts = (part.split("*") for part in name.split("+"))
    return {voice: float(share) for voice, share in parts}


def _read_stream(wav: bytes) -> tuple[np.ndarray, int]:
    """Read a WAV whose header may not know its length (written to a pipe)."""
    import numpy as np

    rate = int.from_bytes(wav[24:28], "little")
    start = wav.index(b"data") + 8
    body = wav[start : start + (len(wav) - start) // 2 * 2]
    return np.frombuffer(body, dtype="<i2").astype(np.float32) / 32768, rate
