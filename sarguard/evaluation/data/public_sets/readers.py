"""The layouts of public sets, one reader each.

| set | what is read |
|---|---|
| advbench | `harmful_behaviors.csv` (columns goal, target; text), or a folder with `advbench_audio.json` (question_id, audio_name, question) beside `advbench_audio/`, and their `_safe` twins where they are there |
| figstep | a folder with `figstep_audio/` and, where it is there, `figstep_audio_safe/`: in each `test_250.json` (scenario, audio_file, question) and the clips in `question/` |
| sorry-bench | JSONL (question_id, category, turns, prompt_style; text), or a folder with `base_question.jsonl` and `base_question_audio/<question_id>.wav` |
| xstest | CSV (id, prompt, type, label, focus, note; text), labels safe and unsafe |
| voicebench | Parquet files of the `advbench` subset (prompt, audio) |
| ajailbench | a folder of WAV files; their words are not known |
| air-bench | a folder with `Chat_meta.json` and the clips in `<task_name>_<dataset_name>/`; harmless |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sarguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    MissingDependencyError,
)
from sarguard.evaluation.data.public_sets.rows import (
    PublicRow,
    existing_clip,
    read_csv,
    read_json,
    read_jsonl,
    text_of,
)
from sarguard.evaluation.judges.rules import Kind

_BASE_STYLE = "base"


def read_advbench(path: Path) -> list[PublicRow]:
    """Return AdvBench's harmful behaviours, as text or as spoken with safe twins."""
    if path.is_dir():
        return list(_spoken_advbench(path))
    return [
        PublicRow(
            id=str(number),
            kind="harmful",
            request=text_of(f"{path}, row {number}", row["goal"]),
        )
        for number, row in enumerate(read_csv(path, ("goal",)), start=1)
    ]


def read_figstep(path: Path) -> list[PublicRow]:
    """Return the spoken FigStep test questions, with their safe twins if there."""
    rows = list(_figstep(path / "figstep_audio", "harmful"))
    safe = path / "figstep_audio_safe"
    return [*rows, *(_figstep(safe, "safe") if safe.is_dir() else ())]


def read_sorry_bench(path: Path) -> list[PublicRow]:
    """Return SORRY-Bench's questions in their base style."""
    file = path / "base_question.jsonl" if path.is_dir() else path
    found = []
    for row in read_jsonl(file, ("question_id", "category", "turns")):
        if row.get("prompt_style", _BASE_STYLE) != _BASE_STYLE:
            continue
        name = str(row["question_id"])
        clip = path / "base_question_audio" / f"{name}.wav"
        found.append(
            PublicRow(
                id=name,
                kind="harmful",
                request=_first_turn(f"{file}, question {name}", row["turns"]),
                audio=existing_clip(clip) if path.is_dir() else None,
                topic=str(row["category"]),
            )
        )
    return found


def read_xstest(path: Path) -> list[PublicRow]:
    """Return XSTest's prompts: safe ones that look unsafe, and unsafe contrasts."""
    kinds: dict[str, Kind] = {"safe": "safe", "unsafe": "harmful"}
    found = []
    for row in read_csv(path, ("id", "prompt", "type", "label")):
        if row["label"] not in kinds:
            raise ArtifactFormatError(
                f"{path}, id {row['id']}: label {row['label']!r} is neither safe nor "
                "unsafe"
            )
        found.append(
            PublicRow(
                id=row["id"],
                kind=kinds[row["label"]],
                request=text_of(f"{path}, id {row['id']}", row["prompt"]),
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
            request=text_of(f"{path}, row {number}", row["prompt"]),
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
    """Return AIR-Bench chat's clips, each with its question in writing; harmless.

    Whether an answer is right is not judged here, only whether it is refused.
    """
    keys = ("path", "task_name", "dataset_name", "question", "uniq_id")
    found = []
    for row in read_json(path / "Chat_meta.json", keys):
        folder = path / f"{row['task_name']}_{row['dataset_name']}"
        found.append(
            PublicRow(
                id=str(row["uniq_id"]),
                kind="safe",
                audio=existing_clip(folder / str(row["path"])),
                text=text_of(f"{path}, {row['uniq_id']}", row["question"]),
                topic=str(row["task_name"]),
            )
        )
    return found


def _spoken_advbench(path: Path) -> Iterator[PublicRow]:
    names: tuple[tuple[str, Kind], ...] = (
        ("advbench_audio", "harmful"),
        ("advbench_audio_safe", "safe"),
    )
    for name, kind in names:
        file = path / f"{name}.json"
        if kind == "safe" and not file.is_file():
            return
        for row in read_json(file, ("question_id", "audio_name", "question")):
            number = str(row["question_id"])
            yield PublicRow(
                id=f"{number}-{kind}",
                kind=kind,
                request=text_of(f"{file}, question {number}", row["question"]),
                audio=existing_clip(path / name / str(row["audio_name"])),
                twin=number,
            )


def _figstep(folder: Path, kind: Kind) -> Iterator[PublicRow]:
    file = folder / "test_250.json"
    for row in read_json(file, ("scenario", "audio_file", "question")):
        name = str(row["audio_file"])
        yield PublicRow(
            id=f"{name}-{kind}",
            kind=kind,
            request=text_of(f"{file}, {name}", row["question"]),
            audio=existing_clip(folder / "question" / name),
            topic=str(row["scenario"]),
            # Twins have the same file name in both folders.
            twin=name,
        )


def _first_turn(where: str, turns: object) -> str:
    if not isinstance(turns, list) or len(turns) != 1:
        raise ArtifactFormatError(f"{where}: found turns {turns!r}, expected one text")
    return text_of(where, turns[0])


def _parquet(file: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import (  # type: ignore[import-untyped]
            ArrowInvalid,
            parquet,
        )
    except ImportError as error:
        raise MissingDependencyError(
            "VoiceBench comes as Parquet, which needs pyarrow: pip install "
            "'sarguard[evaluate]'"
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
