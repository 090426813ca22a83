"""Render the training sentences to shards of clips on disk, resumably."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sarguard.reference.training.voices import (
    SAMPLE_RATE,
    Voice,
    draw_voice,
    held_out_voice,
    speak,
)

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
    sentences: Sequence[str], out: Path, *, unseen: bool, seed: int, workers: int
) -> Iterator[int]:
    """Speak each sentence once; yield the number of sentences done so far.

    Shards already on disk are kept, so a stopped run goes on where it was.

    Args:
        sentences: What to say.
        out: Directory of the shards.
        unseen: Use the voices held out of training instead of training voices.
        seed: Seed of the choice of voices.
        workers: Synthesiser processes at once.
    """
    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(sentences), SHARD_SIZE)
    shards = [(i, sentences[s : s + SHARD_SIZE]) for i, s in enumerate(starts)]
    task = partial(_render_shard, out=out, unseen=unseen, seed=seed)
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
    shard: tuple[int, Sequence[str]], *, out: Path, unseen: bool, seed: int
) -> int:
    number, sentences = shard
    index = out / f"{number:05d}.json"
    if index.exists():
        return len(sentences)
    rows, parts, position = [], [], 0
    for sentence in sentences:
        rng = random.Random(f"{seed}/{sentence}")
        voice = held_out_voice(rng) if unseen else draw_voice(rng)
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
