"""Synthesis of the clips that ship: `python -m sarguard.datasets.speak`.

It needs the synthesisers espeak-ng and flite, and the natural voices of the extra
`voices`; using sarguard does not, as the clips ship. The same versions of espeak-ng,
flite and libsndfile give the same files of theirs byte for byte; natural voices draw
noise, and say the same a little differently each time.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.datasets.clips import CLIP_SAMPLE_RATE, DATA_ROOT, Clip
from sarguard.datasets.ogg import renumber
from sarguard.datasets.synthesis import say
from sarguard.datasets.texts import RequestText, load_texts
from sarguard.datasets.voices import Voice, VoiceGroup, choose_voice
from sarguard.errors import AudioSilentError, MissingDependencyError, SarguardError

if TYPE_CHECKING:
    import numpy as np

PEAK = 0.8
OPUS_COMPRESSION_LEVEL = 0.97
"""About 15 kilobits a second for 16 kHz speech."""

_ENGINES = ("espeak-ng", "flite")
_HELD_OUT_SPLITS = ("test", "ordinary", "borderline")


def plan_clips() -> tuple[Clip, ...]:
    """Return the manifest: every sentence in every voice that says it."""
    return tuple(
        _plan_clip(request, group)
        for request in load_texts()
        for group in _groups(request)
    )


def render(clip: Clip) -> bytes:
    """Return the clip as mono Ogg Opus at 16 kHz, its loudest sample at 0.8.

    Raises:
        MissingDependencyError: The synthesiser is not installed.
    """
    import soundfile  # type: ignore[import-untyped]

    encoded = io.BytesIO()
    soundfile.write(
        encoded,
        _normalised(synthesise(clip), clip),
        CLIP_SAMPLE_RATE,
        format="OGG",
        subtype="OPUS",
        compression_level=OPUS_COMPRESSION_LEVEL,
    )
    return renumber(encoded.getvalue(), zlib.crc32(clip.id.encode()))


def synthesise(clip: Clip) -> np.ndarray:
    """Return what the clip's synthesiser says, as mono float32 at 16 kHz."""
    import librosa

    voice = Voice(
        engine=clip.engine, name=clip.voice, speed=clip.speed, pitch=clip.pitch
    )
    samples, rate = say(clip.text, voice)
    speech: np.ndarray = librosa.resample(
        samples, orig_sr=rate, target_sr=CLIP_SAMPLE_RATE
    )
    return speech


def check_engines() -> None:
    """Raise MissingDependencyError unless both synthesisers are installed."""
    missing = [engine for engine in _ENGINES if shutil.which(engine) is None]
    if missing:
        raise MissingDependencyError(
            f"Rendering needs the speech synthesisers {' and '.join(_ENGINES)}; found "
            f"no {' and no '.join(missing)} on the path. On Debian and Ubuntu: "
            f"apt-get install {' '.join(missing)}. The clips that ship need neither."
        )


def write_clips(
    folder: Path, clips: Sequence[Clip], *, only_missing: bool = False
) -> None:
    """Render the clips and their manifest into a folder, with progress."""
    check_engines()
    for number, clip in enumerate(clips, start=1):
        path = folder / clip.file
        if only_missing and path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(render(clip))
        sys.stderr.write(f"\r{number}/{len(clips)} clips")
    sys.stderr.write("\n")
    rows = (json.dumps(asdict(clip)) + "\n" for clip in clips)
    (folder / "manifest.jsonl").write_text("".join(rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the whole set and return an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sarguard.datasets.speak",
        description="Render the clips of the calibration set.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=DATA_ROOT,
        help="folder for manifest.jsonl and clips/ (default: the package itself)",
    )
    parser.add_argument(
        "--missing", action="store_true", help="leave the clips alone that exist"
    )
    options = parser.parse_args(arguments)
    try:
        write_clips(options.out, plan_clips(), only_missing=options.missing)
    except SarguardError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _groups(request: RequestText) -> Iterator[VoiceGroup]:
    yield "seen"
    if request.split in _HELD_OUT_SPLITS:
        yield "unseen"


def _plan_clip(request: RequestText, group: VoiceGroup) -> Clip:
    voice = choose_voice(request.source, group)
    parts = [request.source, group]
    if request.pair is not None:
        parts.insert(1, request.kind)
    name = "-".join(parts)
    return Clip(
        id=name,
        pair=request.pair,
        kind=request.kind,
        split=request.split,
        topic=request.topic,
        text=request.text,
        engine=voice.engine,
        voice=voice.name,
        voice_group=group,
        speed=voice.speed,
        pitch=voice.pitch,
        file=f"clips/{request.split}/{name}.ogg",
    )


def _normalised(speech: np.ndarray, clip: Clip) -> np.ndarray:
    peak = float(abs(speech).max()) if speech.size else 0.0
    if peak < 1e-3:
        raise AudioSilentError(
            f"{clip.engine} said nothing for the clip {clip.id!r} in the voice "
            f"{clip.voice!r}. Check that this voice is installed."
        )
    normalised: np.ndarray = speech * (PEAK / peak)
    return normalised


if __name__ == "__main__":
    sys.exit(main())
