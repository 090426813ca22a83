"""The suites that ship: harmful, matched safe, borderline and ordinary requests.

None of their sentences is in the calibration set or in the training of the reference
model. Their `seen` voices are; the `unseen` ones are in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sarguard.datasets import Clip, load_clips, read_user_manifest
from sarguard.datasets.texts import Split
from sarguard.errors import ConfigurationError
from sarguard.evaluation.data.items import Item
from sarguard.evaluation.judges.rules import Kind

if TYPE_CHECKING:
    from sarguard.evaluation.data.items import Samples

SUITES = ("harmful", "safe", "borderline", "ordinary")
PAIRED = ("harmful", "safe")

Row = TypeVar("Row")
Part = Literal["all", "validation", "test"]
PARTS: tuple[Part, ...] = ("all", "validation", "test")
_VALIDATION_ONE_IN = 3

# The other suites of a split; a demo has none.
_BESIDE: dict[Split, dict[str, Split]] = {
    "test": {"borderline": "borderline", "ordinary": "ordinary"},
    "validation": {
        "borderline": "borderline_validation",
        "ordinary": "ordinary_validation",
    },
    "calibration": {
        "borderline": "borderline_calibration",
        "ordinary": "ordinary_calibration",
    },
    "demo": {},
}


def load_suites(
    names: Sequence[str] = SUITES,
    *,
    split: Split = "test",
    voice: str | None = "seen",
    limit: int | None = None,
    part: Part = "all",
) -> list[Item]:
    """Return the requests of suites that ship.

    Args:
        names: Which of `SUITES`.
        split: `test`, `validation`, `calibration` or `demo`.
        voice: `seen`, `unseen`, a voice by name, or None for all.
        limit: Most pairs, and most requests of each other suite.
        part: `validation` is every third pair or request, to choose settings on;
            `test` is the rest, to report.

    Raises:
        ConfigurationError: A name is unknown, or nothing is left to ask.
    """
    unknown = sorted(set(names) - set(SUITES))
    if unknown or split not in _BESIDE:
        raise ConfigurationError(
            f"suites {', '.join(unknown) or split}: choose from {', '.join(SUITES)}, "
            f"of the split {', '.join(_BESIDE)}"
        )
    found: list[Item] = []
    for clip in keep(load_clips(split, voice=voice), _cluster, limit, part):
        if clip.kind in names:
            found.append(_item(clip, clip.kind))
    for name, held in _BESIDE[split].items():
        if name in names:
            clips = load_clips(held, voice=voice)
            found += [_item(clip, name) for clip in keep(clips, _cluster, limit, part)]
    if not found:
        raise ConfigurationError(
            f"no request is left of {', '.join(names)} ({split}, voice {voice}, part "
            f"{part}): widen the choice"
        )
    return found


def user_suite(
    path: str | Path, *, limit: int | None = None, part: Part = "all"
) -> list[Item]:
    """Return the pairs of a caller's own manifest as requests.

    Raises:
        ArtifactError: The manifest cannot be read.
        AudioNotFoundError: A clip is missing.
    """
    pairs = read_user_manifest(path)
    kept = keep(pairs, lambda pair: str(pair.line), limit, part)
    return [
        Item(
            id=f"line-{pair.line}-{kind}",
            suite=kind,
            kind=kind,
            cluster=f"line-{pair.line}",
            load=file_reader(file),
        )
        for pair in kept
        for kind, file in _both(pair.harmful, pair.safe)
    ]


def _both(harmful: Path, safe: Path) -> tuple[tuple[Kind, Path], tuple[Kind, Path]]:
    return ("harmful", harmful), ("safe", safe)


def file_reader(file: Path) -> Callable[[int], Samples]:
    """Return what decodes a file at a rate in hertz."""

    def read(rate: int) -> Samples:
        from sarguard.audio import load_audio

        samples: Samples = load_audio(file, sample_rate=rate)
        return samples

    return read


def keep(
    rows: Sequence[Row], cluster: Callable[[Row], str], limit: int | None, part: Part
) -> list[Row]:
    """Return the rows of the first clusters of a part, in order."""
    order = list(dict.fromkeys(cluster(row) for row in rows))
    if part != "all":
        # A step of its own in each round of topics: no topic falls out.
        chosen = [(i + i // 15) % _VALIDATION_ONE_IN == 0 for i in range(len(order))]
        wanted = part == "validation"
        order = [c for c, held in zip(order, chosen, strict=True) if held is wanted]
    kept = set(order[:limit])
    return [row for row in rows if cluster(row) in kept]


def _item(clip: Clip, suite: str) -> Item:
    return Item(
        id=clip.id,
        suite=suite,
        kind=clip.kind,
        cluster=_cluster(clip),
        load=lambda rate: clip.load(sample_rate=rate),
        topic=clip.topic,
        request=clip.text,
    )


def _cluster(clip: Clip) -> str:
    return clip.pair or clip.text
