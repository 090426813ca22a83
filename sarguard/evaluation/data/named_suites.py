"""Suites of a user's own: clips that need no matched pair, from a JSONL manifest.

    {"clip": "a.wav", "kind": "harmful"}
    {"clip": "b.wav", "kind": "harmless", "request": "Is it open?"}
    {"clip": "c.wav"}

`clip` is relative to the manifest. `kind` is `harmful`, `harmless` or `unlabelled`,
which is the default: such a request counts in its suite alone. `request` is what is
said, `text` goes with the clip, and requests of the same `group` count as alike.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sarguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    AudioNotFoundError,
    ConfigurationError,
)
from sarguard.evaluation.data.items import Item, ItemKind
from sarguard.evaluation.data.suites import SUITES, Part, file_reader, keep

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_EXAMPLE = '{"clip": "a.wav", "kind": "harmful"}'
_KINDS: dict[str, ItemKind] = {
    "harmful": "harmful",
    "harmless": "safe",
    "unlabelled": "unlabelled",
}


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    clip: str = Field(min_length=1)
    kind: Literal["harmful", "harmless", "unlabelled"] = "unlabelled"
    request: str = ""
    text: str = ""
    topic: str = ""
    group: str = ""


def named_suite(
    given: str, *, limit: int | None = None, part: Part = "all"
) -> list[Item]:
    """Return the requests of a suite of a user's own.

    Args:
        given: `NAME=MANIFEST`.
        limit: Most groups of requests.
        part: As for `load_suites`.

    Raises:
        ConfigurationError: The name is none, or one that ships.
        ArtifactNotFoundError: There is no such manifest.
        ArtifactFormatError: A line is not a row; the error names it.
        AudioNotFoundError: A clip is missing.
    """
    name, _, place = given.partition("=")
    if not _NAME.fullmatch(name) or not place:
        raise ConfigurationError(
            f"{given!r}: give NAME=MANIFEST, the name in lower-case letters, digits "
            "and dashes"
        )
    if name in SUITES:
        raise ConfigurationError(
            f"the suite {name} ships: give your own suite another name"
        )
    manifest = Path(place)
    rows = _read(manifest)
    if not rows:
        raise ArtifactFormatError(
            f"{manifest} has no row: write one on a line, such as {_EXAMPLE}"
        )
    kept = keep(rows, lambda row: row[1].group or str(row[0]), limit, part)
    return [_item(name, line, row, manifest) for line, row in kept]


def _read(manifest: Path) -> list[tuple[int, _Row]]:
    try:
        lines = manifest.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(
            f"there is no manifest {manifest}: give a JSONL file with rows such as "
            f"{_EXAMPLE}"
        ) from error
    except UnicodeDecodeError as error:
        raise ArtifactFormatError(
            f"{manifest} is not UTF-8 text: give a JSONL file"
        ) from error
    return [
        (number, _row(manifest, number, line))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _row(manifest: Path, number: int, line: str) -> _Row:
    where = f"{manifest}, line {number}"
    try:
        row = _Row.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise ArtifactFormatError(
            f"{where}: {said}. Write a row as {_EXAMPLE}"
        ) from error
    if not (manifest.parent / row.clip).is_file():
        raise AudioNotFoundError(
            f"{where}: there is no clip {manifest.parent / row.clip}: paths are "
            "relative to the manifest"
        )
    return row


def _item(name: str, line: int, row: _Row, manifest: Path) -> Item:
    return Item(
        id=f"{name}/line-{line}",
        suite=name,
        kind=_KINDS[row.kind],
        cluster=f"{name}/{row.group or line}",
        load=file_reader(manifest.parent / row.clip),
        topic=row.topic,
        request=row.request,
        text=row.text,
    )
