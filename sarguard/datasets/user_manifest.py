"""A user's own calibration pairs: a JSONL file that names two clips a line.

    {"harmful": "clips/a.wav", "safe": "clips/b.wav"}

Paths are relative to the manifest. Blank lines are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.datasets.pairs import CalibrationPair, check_limit
from sarguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    AudioError,
    AudioNotFoundError,
    InsufficientDataError,
)

if TYPE_CHECKING:
    import numpy as np

_KEYS = ("harmful", "safe")
_EXAMPLE = '{"harmful": "a.wav", "safe": "b.wav"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFiles:
    """The two files of one line of a manifest."""

    line: int
    """Line number in the manifest, from one."""
    harmful: Path
    safe: Path


def read_user_manifest(path: str | os.PathLike[str]) -> tuple[PairFiles, ...]:
    """Return the pairs that a manifest names, checked but not decoded.

    Raises:
        ArtifactNotFoundError: There is no manifest at the path.
        ArtifactFormatError: A line is not a JSON object with exactly the keys
            `harmful` and `safe`, both naming a file.
        AudioNotFoundError: A named clip does not exist.
        InsufficientDataError: The manifest names no pair.
    """
    manifest = Path(path)
    lines = _read_lines(manifest)
    pairs = tuple(
        _read_pair(manifest, number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not pairs:
        raise InsufficientDataError(
            f"The manifest {manifest} names no pairs. Put one pair on a line: "
            f"{_EXAMPLE}"
        )
    return pairs


def load_user_pairs(
    path: str | os.PathLike[str], *, sample_rate: int, limit: int | None = None
) -> list[CalibrationPair]:
    """Return the decoded pairs that a manifest names.

    Args:
        path: A JSONL manifest.
        sample_rate: Wanted rate in hertz.
        limit: Maximum number of pairs, from the first line on.

    Raises:
        AudioError: A clip cannot be used; the message names its line.
    """
    check_limit(limit)
    files = read_user_manifest(path)[:limit]
    return [
        CalibrationPair(
            id=f"line-{pair.line}",
            harmful=_load_clip(path, pair.line, pair.harmful, sample_rate),
            safe=_load_clip(path, pair.line, pair.safe, sample_rate),
        )
        for pair in files
    ]


def user_data_digest(path: str | os.PathLike[str], *, limit: int | None = None) -> str:
    """Return the SHA-256 over the encoded clips that a manifest names, in order.

    It depends on the content of the clips, not on their names or folders.
    """
    check_limit(limit)
    digest = hashlib.sha256()
    for pair in read_user_manifest(path)[:limit]:
        for file in (pair.harmful, pair.safe):
            content = file.read_bytes()
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
    return digest.hexdigest()


def _read_lines(manifest: Path) -> list[str]:
    if not manifest.is_file():
        raise ArtifactNotFoundError(
            f"There is no manifest file at {manifest}. Give a JSONL file with one "
            f"pair on a line: {_EXAMPLE}"
        )
    try:
        return manifest.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ArtifactFormatError(
            f"The manifest {manifest} is not UTF-8 text: {error.reason} at byte "
            f"{error.start}. Give a JSONL file with one pair on a line: {_EXAMPLE}"
        ) from error


def _read_pair(manifest: Path, number: int, line: str) -> PairFiles:
    where = f"{manifest}, line {number}"
    row = _parse_row(where, line)
    harmful, safe = (_find_clip(manifest, where, row, key) for key in _KEYS)
    return PairFiles(line=number, harmful=harmful, safe=safe)


def _parse_row(where: str, line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArtifactFormatError(
            f"{where}: not valid JSON ({error}). Write a line as {_EXAMPLE}"
        ) from error
    if not isinstance(row, dict):
        raise ArtifactFormatError(
            f"{where}: found a JSON {type(row).__name__} where an object was "
            f"expected. Write a line as {_EXAMPLE}"
        )
    for problem, keys in (
        ("unknown", sorted(row.keys() - set(_KEYS))),
        ("missing", sorted(set(_KEYS) - row.keys())),
    ):
        if keys:
            raise ArtifactFormatError(
                f"{where}: {problem} key {', '.join(map(repr, keys))}. "
                f"Write a line as {_EXAMPLE}"
            )
    return row


def _find_clip(manifest: Path, where: str, row: dict[str, object], key: str) -> Path:
    name = row[key]
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ArtifactFormatError(
            f"{where}: {key!r} must be the path of an audio file, found {name!r}. "
            f"Write a line as {_EXAMPLE}"
        )
    file = manifest.parent / name
    if not file.is_file():
        raise AudioNotFoundError(
            f"{where}: there is no {key} audio file at {file}. Paths are relative to "
            "the manifest; correct the line or put the file there."
        )
    return file


def _load_clip(
    manifest: str | os.PathLike[str], line: int, file: Path, sample_rate: int
) -> np.ndarray:
    from sarguard.audio import load_audio

    try:
        return load_audio(file, sample_rate=sample_rate)
    except AudioError as error:
        raise type(error)(f"{manifest}, line {line}: {file}: {error}") from error
