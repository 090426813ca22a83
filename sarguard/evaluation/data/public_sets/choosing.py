"""From `SET=PATH` to requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from sarguard.errors import ConfigurationError
from sarguard.evaluation.data.items import Item
from sarguard.evaluation.data.public_sets import readers
from sarguard.evaluation.data.public_sets.rows import PublicRow
from sarguard.evaluation.data.suites import Part, keep

if TYPE_CHECKING:
    from sarguard.evaluation.data.items import Samples

READERS: Mapping[str, Callable[[Path], list[PublicRow]]] = MappingProxyType(
    {
        "advbench": readers.read_advbench,
        "figstep": readers.read_figstep,
        "sorry-bench": readers.read_sorry_bench,
        "xstest": readers.read_xstest,
        "voicebench": readers.read_voicebench,
        "ajailbench": readers.read_ajailbench,
        "air-bench": readers.read_air_bench,
    }
)
"""The reader of every set, by name."""

# Into which of the report's columns a set's harmless requests go.
_HARMLESS = {"xstest": "borderline", "air-bench": "ordinary"}


def public_suite(
    given: str, *, limit: int | None = None, part: Part = "all"
) -> list[Item]:
    """Return the requests of a public set.

    Args:
        given: `SET=PATH`, with a name of `READERS`.
        limit: Most requests of each kind, twins together.
        part: As for `load_suites`.

    Raises:
        ConfigurationError: There is no such set.
        ArtifactError: A file is missing or has another layout.
        MissingDependencyError: The set is text, and no synthesiser is installed.
    """
    name, _, place = given.partition("=")
    if name not in READERS or not place:
        raise ConfigurationError(
            f"{given!r}: give SET=PATH, with one of {', '.join(READERS)}"
        )
    rows = READERS[name](Path(place))
    if any(row.audio is None for row in rows):
        from sarguard.datasets.speak import check_engines

        check_engines()
    chosen: list[PublicRow] = []
    for kind in ("harmful", "safe"):
        of_kind = [row for row in rows if row.kind == kind]
        chosen += keep(of_kind, lambda row: row.twin or row.id, limit, part)
    return [_item(name, row) for row in chosen]


def _item(name: str, row: PublicRow) -> Item:
    suite = "harmful" if row.kind == "harmful" else _HARMLESS.get(name, "safe")
    return Item(
        id=f"{name}/{row.id}",
        suite=suite,
        kind=row.kind,
        cluster=f"{name}/{row.twin or row.id}",
        load=lambda rate: _load(name, row, rate),
        topic=row.topic,
        request=row.request,
        text=row.text,
    )


def _load(name: str, row: PublicRow, rate: int) -> Samples:
    from sarguard.audio import load_audio

    if row.audio is not None:
        found: Samples = load_audio(row.audio, sample_rate=rate)
        return found
    return _speak(f"{name}/{row.id}", row.request, rate)


def _speak(source: str, text: str, rate: int) -> Samples:
    """Return a text as a synthesiser says it, in a voice that training did not hear."""
    import librosa

    from sarguard.datasets.clips import CLIP_SAMPLE_RATE, Clip
    from sarguard.datasets.speak import synthesise
    from sarguard.datasets.voices import choose_voice

    voice = choose_voice(source, "unseen")
    clip = Clip(
        id=source,
        pair=None,
        kind="safe",
        split="test",
        topic="",
        text=text,
        engine=voice.engine,
        voice=voice.name,
        voice_group=voice.group,
        speed=voice.speed,
        pitch=voice.pitch,
        file="",
    )
    spoken: Samples = librosa.resample(
        synthesise(clip), orig_sr=CLIP_SAMPLE_RATE, target_sr=rate
    )
    return spoken
