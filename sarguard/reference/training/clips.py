"""Training sentences in synthesised voices, rendered to shards on disk, resumably."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import soxr  # type: ignore[import-untyped]

from sarguard.datasets.natural import (
    HIBARI_VOICE,
    KOKORO_VOICES,
    UNSEEN_KOKORO_VOICE,
    UNSEEN_PIPER_VOICE,
    speak_hibari,
    speak_kokoro,
    speak_piper,
)

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
HELD_OUT_VOICES = (f"piper:{UNSEEN_PIPER_VOICE}", f"kokoro:{UNSEEN_KOKORO_VOICE}")
"""Natural voices that no training clip uses; the unseen-voice figures are theirs. The
synthetic ones rms of flite and en-029 of espeak-ng are not used either."""
_NATURAL_SHARES = {"hibari": 0.36, "kokoro": 0.09}
_FLITE_SHARE = 0.42
"""Of what is left to the synthetic ones."""


Voices: TypeAlias = Literal["training", "natural", "synthetic", "unseen"]
"""Voices of training, its natural or synthetic ones, or those held out of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One setting of one synthesiser."""

    engine: Literal["espeak", "flite", "hibari", "kokoro", "piper"]
    name: str
    """Of Kokoro a mixture, such as `jf_alpha*0.7+jm_kumo*0.3`."""
    rate: float
    """espeak-ng: words a minute. flite: duration stretch, 1.0 is neutral. The others:
    speed, 1.0 is neutral."""
    pitch: int
    """espeak-ng: 0 to 99. Ignored by the others."""

    def command(self, text: str) -> list[str]:
        """Return the command that writes a WAV of ``text`` to standard output."""
        if self.engine == "espeak":
            manner = ["-s", str(round(self.rate)), "-p", str(self.pitch)]
            return ["espeak-ng", "-v", self.name, *manner, "--stdout", text]
        manner = ["--setf", f"duration_stretch={self.rate:.2f}"]
        return ["flite", "-voice", self.name, *manner, "-t", text, "-o", "/dev/stdout"]


def draw_voice(rng: random.Random, voices: Voices = "training") -> Voice:
    """Draw a voice: of training, where nearly every second is natural, by default."""
    if voices == "unseen":
        return _unseen_voice(rng)
    shares = {"synthetic": 1 - sum(_NATURAL_SHARES.values()), **_NATURAL_SHARES}
    if voices == "synthetic":
        shares = {"synthetic": 1.0}
    if voices == "natural":
        shares = {**_NATURAL_SHARES}
    (engine,) = rng.choices([*shares], [*shares.values()])
    if engine == "hibari":
        speed = round(rng.uniform(0.8, 1.25), 2)
        return Voice(engine="hibari", name=HIBARI_VOICE, rate=speed, pitch=50)
    if engine == "kokoro":
        speed = round(rng.uniform(0.85, 1.2), 2)
        return Voice(engine="kokoro", name=_mixture(rng), rate=speed, pitch=50)
    if rng.random() < _FLITE_SHARE:
        name = rng.choice(FLITE_VOICES)
        return Voice(engine="flite", name=name, rate=rng.uniform(0.85, 1.2), pitch=50)
    name = rng.choice(ESPEAK_ACCENTS) + rng.choice(ESPEAK_VARIANTS)
    return Voice(
        engine="espeak",
        name=name,
        rate=rng.randint(130, 190),
        pitch=rng.randint(25, 75),
    )


def _mixture(rng: random.Random) -> str:
    """Draw a mixture of Kokoro's voices, most of it one of them."""
    first, second = rng.sample(KOKORO_VOICES, 2)
    share = round(rng.uniform(0.5, 1.0), 2)
    return f"{first}*{share}+{second}*{round(1 - share, 2)}"


def _unseen_voice(rng: random.Random) -> Voice:
    """Draw one of the natural voices that training never uses."""
    if rng.random() < 0.5:
        return Voice(engine="piper", name=UNSEEN_PIPER_VOICE, rate=1.0, pitch=50)
    name = f"{UNSEEN_KOKORO_VOICE}*1.0"
    return Voice(engine="kokoro", name=name, rate=1.0, pitch=50)


def speak(text: str, voice: Voice) -> np.ndarray:
    """Return ``text`` spoken by ``voice``: mono int16 at 16 kHz, peak 0.7.

    Raises:
        subprocess.CalledProcessError: The synthesiser failed.
    """
    samples, rate = _spoken(text, voice)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    peak = max(1e-4, float(np.abs(samples).max(initial=0.0)))
    return np.rint(samples / peak * 0.7 * 32767).astype(np.int16)


def _spoken(text: str, voice: Voice) -> tuple[np.ndarray, int]:
    if voice.engine == "hibari":
        return speak_hibari(text, speed=voice.rate)
    if voice.engine == "kokoro":
        parts = (part.split("*") for part in voice.name.split("+"))
        styles = {name: float(share) for name, share in parts}
        return speak_kokoro(text, styles, speed=voice.rate)
    if voice.engine == "piper":
        return speak_piper(text)
    return _read_stream(
        subprocess.run(
            voice.command(text), check=True, capture_output=True, timeout=60
        ).stdout
    )


def _read_stream(wav: bytes) -> tuple[np.ndarray, int]:
    """Read a WAV whose header may not know its length (written to a pipe)."""
    rate = int.from_bytes(wav[24:28], "little")
    start = wav.index(b"data") + 8
    body = wav[start : start + (len(wav) - start) // 2 * 2]
    return np.frombuffer(body, dtype="<i2").astype(np.float32) / 32768, rate


SHARD_SIZE = 250
MAX_SECONDS = 7.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A spoken sentence: its words and mono int16 samples at 16 kHz."""

    text: str
    voice: str
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        """Return the clip's length."""
        return len(self.samples) / SAMPLE_RATE


def render(
    sentences: Sequence[str], out: Path, *, voices: Voices, seed: int, workers: int
) -> Iterator[int]:
    """Speak each sentence once; yield the number of sentences done so far.

    Shards already on disk are kept, so a stopped run goes on where it was.

    Args:
        sentences: What to say.
        out: Directory of the shards.
        voices: Which speak.
        seed: Seed of the choice of voices.
        workers: Synthesiser processes at once.
    """
    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(sentences), SHARD_SIZE)
    shards = [(i, sentences[s : s + SHARD_SIZE]) for i, s in enumerate(starts)]
    task = partial(_render_shard, out=out, voices=voices, seed=seed)
    done = 0
    with ProcessPoolExecutor(workers) as pool:
        for count in pool.map(task, shards):
            done += count
            yield done


def load(directory: Path) -> list[Clip]:
    """Return every clip of the directory's shards, in a fixed order."""
    clips: list[Clip] = []
    for index in sorted(directory.glob("*.json")):
        samples = np.load(index.with_suffix(".npy"), mmap_mode="r")
        for row in json.loads(index.read_text("utf-8")):
            part = samples[row["start"] : row["stop"]]
            clips.append(
                Clip(text=row["text"], voice=row["voice"]["name"], samples=part)
            )
    return clips


def _render_shard(
    shard: tuple[int, Sequence[str]], *, out: Path, voices: Voices, seed: int
) -> int:
    number, sentences = shard
    index = out / f"{number:05d}.json"
    if index.exists():
        return len(sentences)
    rows, parts, position = [], [], 0
    for sentence in sentences:
        rng = random.Random(f"{seed}/{sentence}")
        voice = draw_voice(rng, voices)
        samples = _speak_or_none(sentence, voice)
        if samples is None or len(samples) > MAX_SECONDS * SAMPLE_RATE:
            continue
        stop = position + len(samples)
        rows.append(
            {"text": sentence, "voice": asdict(voice), "start": position, "stop": stop}
        )
        parts.append(samples)
        position = stop
    np.save(index.with_suffix(".npy"), np.concatenate(parts))
    # The index appears whole and last: a shard is done once it is there.
    partial_index = index.with_suffix(".partial")
    partial_index.write_text(json.dumps(rows), "utf-8")
    partial_index.replace(index)
    return len(sentences)


def _speak_or_none(sentence: str, voice: Voice) -> np.ndarray | None:
    """Speak the sentence, or return None where this synthesiser cannot."""
    try:
        return speak(sentence, voice)
    except (subprocess.SubprocessError, ValueError):
        return None
