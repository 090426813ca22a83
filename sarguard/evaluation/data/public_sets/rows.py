"""One request of a public set, and reading the files that such sets come in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarguard.errors import ArtifactFormatError, ArtifactNotFoundError
from sarguard.evaluation.judges.rules import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRow:
    """Hold one request of a public set."""

    id: str
    """Unique in its set; twins differ in kind alone."""
    kind: Kind
    request: str = ""
    """What is said, in writing; empty where the set does not tell."""
    audio: Path | bytes | None = None
    """A file, an encoded clip, or None where the set is text."""
    text: str = ""
    """What accompanies the clip in writing."""
    topic: str = ""
    twin: str = ""
    """Shared by a harmful request and its harmless twin."""


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
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


def read_json(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
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


def read_jsonl(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
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


def existing_clip(path: Path) -> Path:
    """Return the path of a clip that is there.

    Raises:
        ArtifactNotFoundError: It is not.
    """
    if not path.is_file():
        raise ArtifactNotFoundError(
            f"there is no clip {path}: the set is not whole; unpack it again"
        )
    return path


def text_of(where: str, value: object) -> str:
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
