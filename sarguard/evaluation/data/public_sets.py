"""Public sets that a caller has on disk, in the layouts they come in.

| set | what is read |
|---|---|
| advbench | `harmful_behaviors.csv` (columns goal, target; text), or a folder with `advbench_audio.json` (question_id, audio_name, question) beside `advbench_audio/`, and their `_safe` counterparts where they are there |
| figstep | a folder with `figstep_audio/` and, where it is there, `figstep_audio_safe/`: in each `test_250.json` (scenario, audio_file, question) and the clips in `question/` |
| sorry-bench | JSONL (question_id, category, turns, prompt_style; text), or a folder with `base_question.jsonl` and `base_question_audio/<question_id>.wav` |
| xstest | CSV (id, prompt, type, label, focus, note; text), labels safe and unsafe |
| voicebench | Parquet files of the `advbench` subset (prompt, audio) |
| ajailbench | a folder of WAV files; their words are not known |
| air-bench | a folder with `Chat_meta.json` and the clips in `<task_name>_<dataset_name>/`; harmless |

Nothing is downloaded. A set that is text alone is spoken by the synthesisers that also
spoke the shipped clips, in voices that training did not hear.
"""  # noqa: E501

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sarguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    ConfigurationError,
)
from sarguard.evaluation.data.items import Item
from sarguard.evaluation.data.suites import Part, keep
from sarguard.evaluation.judges.rules import Kind
from sarguard.extras import missing_extra

if TYPE_CHECKING:
    from sarguard.evaluation.data.items import Samples

_BASE_STYLE = "base"
# Into which of the report's columns a set's harmless requests go.
_HARMLESS = {"xstest": "borderline", "air-bench": "ordinary"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRow:
    """One request of a public set."""

    id: str
    """Unique in its set; a matched pair differs in kind alone."""
    kind: Kind
    request: str = ""
    """What is said, as text; empty where the set does not tell."""
    audio: Path | bytes | None = None
    """A file, an encoded clip, or None where the set is text."""
    text: str = ""
    """Text that goes with the clip."""
    topic: str = ""
    pair: str = ""
    """Shared by a harmful request and the harmless one that matches it."""


def public_suite(
    given: str, *, limit: int | None = None, part: Part = "all"
) -> list[Item]:
    """Return the requests of a public set.

    Args:
        given: `SET=PATH`, with a name of `READERS`.
        limit: Most requests of each kind, matched pairs together.
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
        from sarguard.datasets.natural import check_natural_voices

        check_natural_voices()
    chosen: list[PublicRow] = []
    for kind in ("harmful", "safe"):
        of_kind = [row for row in rows if row.kind == kind]
        chosen += keep(of_kind, lambda row: row.pair or row.id, limit, part)
    return [_item(name, row) for row in chosen]


def _item(name: str, row: PublicRow) -> Item:
    suite = "harmful" if row.kind == "harmful" else _HARMLESS.get(name, "safe")
    return Item(
        id=f"{name}/{row.id}",
        suite=suite,
        kind=row.kind,
        cluster=f"{name}/{row.pair or row.id}",
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
    return speak(f"{name}/{row.id}", row.request, rate)


def speak(source: str, text: str, rate: int) -> Samples:
    """Return a text as a natural voice says it that training did not hear."""
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
        voice_group="unseen",
        speed=voice.speed,
        pitch=voice.pitch,
        file="",
    )
    spoken: Samples = librosa.resample(
        synthesise(clip), orig_sr=CLIP_SAMPLE_RATE, target_sr=rate
    )
    return spoken


def read_advbench(path: Path) -> list[PublicRow]:
    """Return AdvBench's harmful behaviours, as text or as spoken matched pairs."""
    if path.is_dir():
        return list(_spoken_advbench(path))
    return [
        PublicRow(
            id=str(number),
            kind="harmful",
            request=_text_of(f"{path}, row {number}", row["goal"]),
        )
        for number, row in enumerate(_read_csv(path, ("goal",)), start=1)
    ]


def read_figstep(path: Path) -> list[PublicRow]:
    """Return the spoken FigStep test questions, with the matched safe ones if there."""
    rows = list(_figstep(path / "figstep_audio", "harmful"))
    safe = path / "figstep_audio_safe"
    return [*rows, *(_figstep(safe, "safe") if safe.is_dir() else ())]


def read_sorry_bench(path: Path) -> list[PublicRow]:
    """Return SORRY-Bench's questions in their base style."""
    file = path / "base_question.jsonl" if path.is_dir() else path
    found = []
    for row in _read_jsonl(file, ("question_id", "category", "turns")):
        if row.get("prompt_style", _BASE_STYLE) != _BASE_STYLE:
            continue
        name = str(row["question_id"])
        clip = path / "base_question_audio" / f"{name}.wav"
        found.append(
            PublicRow(
                id=name,
                kind="harmful",
                request=_first_turn(f"{file}, question {name}", row["turns"]),
                audio=_existing_clip(clip) if path.is_dir() else None,
                topic=str(row["category"]),
            )
        )
    return found


def read_xstest(path: Path) -> list[PublicRow]:
    """Return XSTest's prompts: safe ones that look unsafe, and unsafe contrasts."""
    kinds: dict[str, Kind] = {"safe": "safe", "unsafe": "harmful"}
    found = []
    for row in _read_csv(path, ("id", "prompt", "type", "label")):
        if row["label"] not in kinds:
            raise ArtifactFormatError(
                f"{path}, id {row['id']}: label {row['label']!r} is neither safe nor "
                "unsafe"
            )
        found.append(
            PublicRow(
                id=row["id"],
                kind=kinds[row["label"]],
                request=_text_of(f"{path}, id {row['id']}", row["prompt"]),
                topic=row["type"],
            )
        )
    return found


def read_voicebench(path: Path) -> list[PublicRow]:
    """Return the spoken requests of VoiceBench's `advbench` subset.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ArtifactNotFoundError(
            f"there is no Parquet file at {path}: give the advbench subset's folder"
        )
    rows = [row for file in files for row in _parquet(file)]
    return [
        PublicRow(
            id=str(number),
            kind="harmful",
            request=_text_of(f"{path}, row {number}", row["prompt"]),
            audio=_encoded(f"{path}, row {number}", row["audio"]),
        )
        for number, row in enumerate(rows, start=1)
    ]


def read_ajailbench(path: Path) -> list[PublicRow]:
    """Return AJailBench's clips; a file's name is all that is known of its words."""
    files = sorted(path.rglob("*.wav")) if path.is_dir() else []
    if not files:
        raise ArtifactNotFoundError(
            f"there is no WAV file under {path}: give the folder of the base clips"
        )
    return [
        PublicRow(id=str(file.relative_to(path)), kind="harmful", audio=file)
        for file in files
    ]


def read_air_bench(path: Path) -> list[PublicRow]:
    """Return AIR-Bench chat's clips, each with its question as text; harmless.

    Whether an answer is right is not judged here, only whether it is refused.
    """
    keys = ("path", "task_name", "dataset_name", "question", "uniq_id")
    found = []
    for row in _read_json(path / "Chat_meta.json", keys):
        folder = path / f"{row['task_name']}_{row['dataset_name']}"
        found.append(
            PublicRow(
                id=str(row["uniq_id"]),
                kind="safe",
                audio=_existing_clip(folder / str(row["path"])),
                text=_text_of(f"{path}, {row['uniq_id']}", row["question"]),
                topic=str(row["task_name"]),
            )
        )
    return found


READERS: Mapping[str, Callable[[Path], list[PublicRow]]] = MappingProxyType(
    {
        "advbench": read_advbench,
        "figstep": read_figstep,
        "sorry-bench": read_sorry_bench,
        "xstest": read_xstest,
        "voicebench": read_voicebench,
        "ajailbench": read_ajailbench,
        "air-bench": read_air_bench,
    }
)
"""The reader of every set, by name."""


def _spoken_advbench(path: Path) -> Iterator[PublicRow]:
    names: tuple[tuple[str, Kind], ...] = (
        ("advbench_audio", "harmful"),
        ("advbench_audio_safe", "safe"),
    )
    for name, kind in names:
        file = path / f"{name}.json"
        if kind == "safe" and not file.is_file():
            return
        for row in _read_json(file, ("question_id", "audio_name", "question")):
            number = str(row["question_id"])
            yield PublicRow(
                id=f"{number}-{kind}",
                kind=kind,
                request=_text_of(f"{file}, question {number}", row["question"]),
                audio=_existing_clip(path / name / str(row["audio_name"])),
                pair=number,
            )


def _figstep(folder: Path, kind: Kind) -> Iterator[PublicRow]:
    file = folder / "test_250.json"
    for row in _read_json(file, ("scenario", "audio_file", "question")):
        name = str(row["audio_file"])
        yield PublicRow(
            id=f"{name}-{kind}",
            kind=kind,
            request=_text_of(f"{file}, {name}", row["question"]),
            audio=_existing_clip(folder / "question" / name),
            topic=str(row["scenario"]),
            # A pair has the same file name in both folders.
            pair=name,
        )


def _first_turn(where: str, turns: object) -> str:
    if not isinstance(turns, list) or len(turns) != 1:
        raise ArtifactFormatError(f"{where}: found turns {turns!r}, expected one text")
    return _text_of(where, turns[0])


def _parquet(file: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import (  # type: ignore[import-untyped]
            ArrowInvalid,
            parquet,
        )
    except ImportError as error:
        raise missing_extra(
            "VoiceBench, which comes as Parquet,", "evaluate", error
        ) from error
    try:
        table = parquet.read_table(file)
    except ArrowInvalid as error:
        raise ArtifactFormatError(f"{file} is not a Parquet file: {error}") from error
    missing = [name for name in ("prompt", "audio") if name not in table.column_names]
    if missing:
        raise ArtifactFormatError(
            f"{file} has the columns {', '.join(table.column_names)}, and lacks "
            f"{', '.join(missing)}: is this VoiceBench's advbench subset?"
        )
    rows: list[dict[str, Any]] = table.select(["prompt", "audio"]).to_pylist()
    return rows


def _encoded(where: str, audio: object) -> bytes:
    content = audio.get("bytes") if isinstance(audio, dict) else None
    if not isinstance(content, bytes):
        raise ArtifactFormatError(f"{where}: the audio holds no encoded clip")
    return content


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header.

    Raises:
        ArtifactNotFoundError: There is no file at the path.
        ArtifactFormatError: A column is missing, or there is no row.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise ArtifactFormatError(
            f"{path} has the columns {', '.join(reader.fieldnames or ()) or 'none'}, "
            f"and lacks {', '.join(missing)}: is this the right file?"
        )
    return _some(path, list(reader))


def _read_json(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a file that holds one JSON list of objects.

    Raises:
        ArtifactNotFoundError: There is no file at the path.
        ArtifactFormatError: It is not such a list, or a row lacks a key.
    """
    rows = _parse(str(path), read_text(path))
    if not isinstance(rows, list):
        raise ArtifactFormatError(
            f"{path} holds a JSON {type(rows).__name__} where a list was expected"
        )
    return _some(path, [_row(f"{path}, row {n}", r, keys) for n, r in _count(rows)])


def _read_jsonl(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a file with one JSON object a line.

    Raises:
        ArtifactNotFoundError: There is no file at the path.
        ArtifactFormatError: A line is not an object, or lacks a key.
    """
    lines = [
        (n, line) for n, line in _count(read_text(path).split("\n")) if line.strip()
    ]
    rows = []
    for number, line in lines:
        where = f"{path}, line {number}"
        rows.append(_row(where, _parse(where, line), keys))
    return _some(path, rows)


def read_text(path: Path) -> str:
    """Return a UTF-8 file.

    Raises:
        ArtifactNotFoundError: There is no file at the path.
        ArtifactFormatError: It is not UTF-8.
    """
    if not path.is_file():
        raise ArtifactNotFoundError(
            f"there is no file {path}: give the folder in which the set was unpacked"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArtifactFormatError(
            f"{path} is not UTF-8 text: {error.reason}"
        ) from error


def _existing_clip(path: Path) -> Path:
    """Return the path of a clip that is there.

    Raises:
        ArtifactNotFoundError: It is not.
    """
    if not path.is_file():
        raise ArtifactNotFoundError(
            f"there is no clip {path}: the set is not whole; unpack it again"
        )
    return path


def _text_of(where: str, value: object) -> str:
    """Return a value that has to be a text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise ArtifactFormatError(
            f"{where}: found {value!r} where a request was expected"
        )
    return " ".join(value.split())


def _parse(where: str, content: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(content)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArtifactFormatError(f"{where}: not valid JSON ({error})") from error


def _row(where: str, row: object, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ArtifactFormatError(
            f"{where}: found a JSON {type(row).__name__} where an object was expected"
        )
    missing = [key for key in keys if key not in row]
    if missing:
        raise ArtifactFormatError(f"{where}: missing {', '.join(missing)}")
    return row


def _count(rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate(rows, start=1)


def _some(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        raise ArtifactFormatError(f"{path} holds no row: is it whole?")
    return rows
