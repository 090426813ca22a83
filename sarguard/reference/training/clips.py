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
    UNSEEN_KOKORO_VOICE,
    UNSEEN_PIPER_VOICE,
)
from sarguard.datasets.synthesis import say
from sarguard.datasets.voices import Voice, kokoro_mixture

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
        return Voice(engine="hibari", name=HIBARI_VOICE, speed=speed, pitch=None)
    if engine == "kokoro":
        speed = round(rng.uniform(0.85, 1.2), 2)
        name = kokoro_mixture(rng)
        return Voice(engine="kokoro", name=name, speed=speed, pitch=None)
    if rng.random() < _FLITE_SHARE:
        name = rng.choice(FLITE_VOICES)
        speed = rng.uniform(0.85, 1.2)
        return Voice(engine="flite", name=name, speed=speed, pitch=None)
    name = rng.choice(ESPEAK_ACCENTS) + rng.choice(ESPEAK_VARIANTS)
    return Voice(
        engine="espeak-ng",
        name=name,
        speed=rng.randint(130, 190),
        pitch=rng.randint(25, 75),
    )


def _unseen_voice(rng: random.Random) -> Voice:
    """Draw one of the natural voices that training never uses."""
    if rng.random() < 0.5:
        return Voice(engine="piper", name=UNSEEN_PIPER_VOICE, speed=1.0, pitch=None)
    name = f"{UNSEEN_KOKORO_VOICE}*1.0"
    return Voice(engine="kokoro", name=name, speed=1.0, pitch=None)


def speak(text: str, voice: Voice) -> np.ndarray:
    """Return ``text`` spoken by ``voice``: mono int16 at 16 kHz, peak 0.7.

    Raises:
        subprocess.CalledProcessError: The synthesiser failed.
    """
    samples, rate = say(text, voice)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    peak = max(1e-4, float(np.abs(samples).max(initial=0.0)))
    return np.rint(samples / peak * 0.7 * 32767).astype(np.int16)


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
