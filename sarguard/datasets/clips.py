"""The spoken requests that ship: a manifest and Ogg Opus clips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.datasets.texts import SPLITS, Kind, Split
from sarguard.datasets.voices import Engine, VoiceGroup
from sarguard.errors import ArtifactNotFoundError, ConfigurationError

if TYPE_CHECKING:
    import numpy as np

CLIP_SAMPLE_RATE = 16_000
DATA_ROOT = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One row of the manifest: what is said, in which voice, and in which file."""

    id: str
    pair: str | None
    """Identifier shared by both clips of a pair, in every voice; None if unpaired."""
    kind: Kind
    split: Split
    topic: str
    text: str
    engine: Engine
    voice: str
    voice_group: VoiceGroup
    """`unseen` voices are kept out of the reference model's training data."""
    speed: float
    pitch: int | None
    file: str
    """Path of the clip, relative to the manifest, with forward slashes."""

    def read_bytes(self) -> bytes:
        """Return the encoded clip.

        Raises:
            ArtifactNotFoundError: The clip is missing from the installation.
        """
        path = DATA_ROOT / self.file
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ArtifactNotFoundError(
                f"The calibration clip {self.id!r} is missing: found no {path}. "
                "Reinstall sarguard, or render the clips again with "
                "`python -m sarguard.datasets.speak`."
            ) from error

    def load(self, *, sample_rate: int = CLIP_SAMPLE_RATE) -> np.ndarray:
        """Return the decoded clip.

        Args:
            sample_rate: Wanted rate in hertz.

        Returns:
            Mono float32 in [-1, 1], shape (samples,).
        """
        from sarguard.audio import load_audio

        return load_audio(self.read_bytes(), sample_rate=sample_rate)


@cache
def load_manifest() -> tuple[Clip, ...]:
    """Return every clip that ships, in the order of the manifest.

    Raises:
        ArtifactNotFoundError: The manifest is missing from the installation.
    """
    path = DATA_ROOT / "manifest.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(
            f"The calibration manifest is missing: found no {path}. Reinstall sarguard."
        ) from error
    return tuple(Clip(**json.loads(line)) for line in lines)


def load_clips(
    split: Split, kind: Kind | None = None, voice: str | None = None
) -> tuple[Clip, ...]:
    """Return the clips of one split.

    Args:
        split: One of `SPLITS`.
        kind: Keep only `harmful` or only `safe` clips.
        voice: Keep only the `seen` or the `unseen` voices, or one voice by name.

    Raises:
        ConfigurationError: The split is unknown.
    """
    if split not in SPLITS:
        raise ConfigurationError(
            f"There is no calibration split {split!r}. Use one of {', '.join(SPLITS)}."
        )
    return tuple(
        clip
        for clip in load_manifest()
        if clip.split == split
        and kind in (None, clip.kind)
        and voice in (None, clip.voice, clip.voice_group)
    )


def data_digest(split: Split) -> str:
    """Return the SHA-256 over a split's manifest rows and encoded clips, in order."""
    return digest_clips(load_clips(split))


def digest_clips(clips: Sequence[Clip]) -> str:
    """Return the SHA-256 over manifest rows and encoded clips, in order."""
    digest = hashlib.sha256()
    for clip in clips:
        row = json.dumps(asdict(clip), sort_keys=True, separators=(",", ":"))
        for part in (row.encode(), clip.read_bytes()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()
