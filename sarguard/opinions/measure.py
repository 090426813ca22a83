"""What the shipped text guard flags of the clips that ship, and what it costs.

    python -m sarguard.opinions.measure [--voice seen] [--transcripts FILE] [--json]

For each recogniser: word errors, the share of the test clips that `request_classifier`
flags by group, and seconds a clip. The written texts are the best case: every word
heard.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sarguard.datasets import Clip, load_clips
from sarguard.datasets.texts import Split
from sarguard.guard.transcripts import SpeechRecogniser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

RATE = 16_000
TEST: tuple[Split, ...] = ("test", "borderline", "ordinary")
GROUPS = ("harmful", "safe", "borderline", "ordinary")
Recogniser = Literal["written", "whisper", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One clip that ships, and the words that a recogniser heard."""

    id: str
    split: str
    kind: str
    text: str
    """What was said."""
    heard: str
    seconds: float
    """That hearing took, of one CPU core."""


def group_of(one: Heard) -> str:
    """Return the group of a request: harmful, safe, borderline or ordinary."""
    for group in ("borderline", "ordinary"):
        if one.split.startswith(group):
            return group
    return one.kind


def hear(
    splits: Sequence[Split] | Sequence[str],
    *,
    voice: str | None = "seen",
    keep: Path | None = None,
    recogniser: SpeechRecogniser | None = None,
) -> list[Heard]:
    """Return what a recogniser hears in the clips of some splits.

    Args:
        splits: Of the clips that ship.
        voice: `seen`, `unseen`, a voice by name, or None for all.
        keep: JSON lines that transcripts are read from and added to.
        recogniser: Whisper tiny.en where none is given.
    """
    known = {one.id: one for one in _kept(keep)}
    clips = [
        clip for split in splits for clip in load_clips(_split(split), voice=voice)
    ]
    missing = [clip for clip in clips if clip.id not in known]
    if missing and recogniser is None:
        from sarguard.opinions.recognisers import whisper_transcriber

        recogniser = whisper_transcriber()
    for clip in missing:
        one = _hear_one(clip, recogniser)
        known[clip.id] = one
        if keep is not None:
            with keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(one)) + "\n")
    return [known[clip.id] for clip in clips]


def flags(
    items: Sequence[tuple[NDArray[np.float32], int]],
    *,
    recogniser: SpeechRecogniser | None = None,
    score: Callable[[str], float] | None = None,
) -> list[float]:
    """Return the score of each of some clips, as `request_classifier` gives it.

    Compare it with the threshold on the probe's card.

    Args:
        items: Clips, mono float32, each with its rate in hertz.
        recogniser: Whisper tiny.en where none is given.
        score: From a text to its score; the shipped one where none is given.
    """
    from sarguard.opinions.recognisers import whisper_transcriber
    from sarguard.opinions.request_probe import request_scorer

    recogniser = recogniser or whisper_transcriber()
    score = score or request_scorer()
    return [score(str(recogniser.run(clip, rate))) for clip, rate in items]


def roc_area(harmful: Tensor, harmless: Tensor) -> float:
    """Return the chance that a harmful request outscores a harmless one."""
    wins = (harmful[:, None] > harmless[None]).double()
    ties = (harmful[:, None] == harmless[None]).double()
    return float((wins + 0.5 * ties).mean())


def summary(
    heard: Sequence[Heard], score: Callable[[str], float], threshold: float
) -> dict[str, Any]:
    """Return word errors, shares flagged by group, areas, and seconds a clip."""
    import torch

    from sarguard.reference.training.hearing import word_error_rate

    start = time.process_time()
    scores = torch.tensor([score(one.heard) for one in heard])
    seconds = (time.process_time() - start) / max(1, len(heard))
    groups = [group_of(one) for one in heard]
    found: dict[str, Any] = {
        "word_errors": word_error_rate(
            [one.text for one in heard], [one.heard for one in heard]
        ),
        "hearing_s": sum(one.seconds for one in heard) / max(1, len(heard)),
        "scoring_s": seconds,
    }
    harmful = scores[[group == "harmful" for group in groups]]
    for group in GROUPS:
        mine = scores[[g == group for g in groups]]
        found[group] = {
            "clips": len(mine),
            "flagged": float((mine >= threshold).double().mean()),
        }
        if group != "harmful":
            found[group]["area"] = roc_area(harmful, mine)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the shipped text guard flags of the test clips, and its cost."""
    from sarguard.opinions.request_probe import request_scorer, shipped_probe

    parser = ArgumentParser(description="Measure request_classifier on the test clips.")
    parser.add_argument("--voice", default="seen", choices=["seen", "unseen"])
    parser.add_argument(
        "--by",
        nargs="+",
        default=["written", "whisper", "reference"],
        choices=["written", "whisper", "reference"],
        help="who hears the clips; `written` is what was said",
    )
    parser.add_argument("--transcripts", type=Path, help="Whisper's, kept and reused")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    score, threshold = request_scorer(), shipped_probe().threshold
    rows = {
        by: summary(_heard_by(by, given.voice, given.transcripts), score, threshold)
        for by in given.by
    }
    print(json.dumps(rows, indent=2) if given.json else _table(rows))
    return 0


def _heard_by(by: str, voice: str, keep: Path | None) -> list[Heard]:
    if by == "whisper":
        return hear(TEST, voice=voice, keep=keep)
    if by == "reference":
        from sarguard.opinions.recognisers import reference_transcriber

        return hear(TEST, voice=voice, recogniser=reference_transcriber())
    clips = [clip for split in TEST for clip in load_clips(split, voice=voice)]
    return [_as_heard(clip, clip.text, 0.0) for clip in clips]


def _hear_one(clip: Clip, recogniser: SpeechRecogniser | None) -> Heard:
    if recogniser is None:
        return _as_heard(clip, clip.text, 0.0)
    samples = clip.load(sample_rate=RATE)
    start = time.process_time()
    words = str(recogniser.run(samples, RATE))
    return _as_heard(clip, words, time.process_time() - start)


def _as_heard(clip: Clip, words: str, seconds: float) -> Heard:
    return Heard(
        id=clip.id,
        split=clip.split,
        kind=clip.kind,
        text=clip.text,
        heard=words,
        seconds=round(seconds, 3),
    )


def _kept(path: Path | None) -> Iterator[Heard]:
    if path is None or not path.exists():
        return
    for line in path.read_text("utf-8").splitlines():
        yield Heard(**json.loads(line))


def _split(name: str) -> Split:
    # `load_clips` refuses what is none.
    return name  # type: ignore[return-value]


def _table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "heard by | word errors | harmful | safe | borderline | ordinary | "
        "s to hear | s to score"
    ]
    for by, row in rows.items():
        shares = " | ".join(f"{row[group]['flagged']:.0%}" for group in GROUPS)
        lines.append(
            f"{by} | {row['word_errors']:.1%} | {shares} | {row['hearing_s']:.2f} | "
            f"{row['scoring_s']:.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
