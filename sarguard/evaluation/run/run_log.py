"""The results of a run on disk, one line an answer, and resumed after any stop.

    run.json         what was asked of whom; a run is resumed only if it is the same
    answers.jsonl    one `AnswerRecord` a line, appended and flushed batch by batch

A process that is killed leaves at most one torn line, at the end; it is cut off when
the run is opened again, and its answer is asked for again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)

from sarguard.errors import ArtifactFormatError, ConfigurationError
from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.data.items import Axis, ItemKind
from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.run.draws import GREEDY, Draw

SETTINGS_FILE = "run.json"
ANSWERS_FILE = "answers.jsonl"

_Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _read_arm(value: object) -> Arm:
    if not isinstance(value, (Arm, str)):
        raise ValueError(f"an arm is {value!r}: expected its name")
    # Through its name even where it is one: a dose has six digits on disk, and a run
    # that was resumed has to add up as one that was not.
    return Arm.parse(str(value))


class AnswerRecord(BaseModel):
    """What one arm did with one request.

    An answer itself is not kept. How it begins is, where it is harmless: the request
    was, or the answer refuses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: Annotated[Arm, PlainValidator(_read_arm), PlainSerializer(str)]
    """On disk by its name and dose, such as `ablated 0.1`."""
    item: str
    suite: str
    variant: str
    axis: Axis = "variant"
    """What the variant differs in."""
    kind: ItemKind
    cluster: str
    topic: str = ""
    label: Label
    second_label: Label | None = None
    """What the second judge says; None without one, and where nothing was decoded."""
    on_topic: bool | None = None
    """Whether the answer is about the request; None where that was not asked."""
    dose: float
    """Strength of steering; 0 in the arms that do not steer."""
    score: float | None = None
    """What the gate gave the request, asked as it is; None where the arm asks more."""
    blocked: bool = False
    """Whether nothing was decoded."""
    tokens: int
    seconds: _Seconds
    """From the start of decoding to the end of the batch, shared by its rows."""
    batch: int
    """Rows of the batch."""
    start: str = ""
    """The first words, where they are harmless."""
    temperature: _Temperature = 0.0
    """0 where it was decoded greedily."""
    attempt: int = 0
    """Which try at that temperature, from 0 on."""

    @property
    def draw(self) -> Draw:
        """Return the try that it is of."""
        return Draw(temperature=self.temperature, attempt=self.attempt)

    @property
    def withheld(self) -> bool:
        """Return whether nothing was given: the request was blocked or refused."""
        return self.blocked or self.label is Label.REFUSED


class MemoryLog:
    """Records that are gone when the process ends."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str, Draw], AnswerRecord] = {}

    @property
    def records(self) -> tuple[AnswerRecord, ...]:
        """Return every record, in the order in which they came."""
        return tuple(self._records.values())

    def has(self, arm: Arm, item: str, draw: Draw = GREEDY) -> bool:
        """Return whether an arm's answer to a request is there, of one try."""
        return (str(arm), item, draw) in self._records

    def add(self, records: Iterable[AnswerRecord]) -> None:
        """Keep records; the first of an arm, a request and a try stays."""
        for record in records:
            key = str(record.arm), record.item, record.draw
            self._records.setdefault(key, record)


class RunLog(MemoryLog):
    """Records in a directory."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open a directory, new or of the same run.

        Args:
            folder: Made if it is not there.
            settings: What makes two runs the same, as plain values.

        Raises:
            ConfigurationError: The directory holds another run, or other files.
            ArtifactFormatError: A line cannot be read, other than a torn last one.
        """
        super().__init__()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # As JSON gives them back, with lists for tuples: they are compared with a
        # file's.
        self._check_settings(json.loads(json.dumps(settings)))
        self._path = folder / ANSWERS_FILE
        self._restore()

    def add(self, records: Iterable[AnswerRecord]) -> None:
        """Write records to the disk, and return when they are there."""
        fresh = [r for r in records if not self.has(r.arm, r.item, r.draw)]
        lines = "".join(f"{record.model_dump_json()}\n" for record in fresh)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        # After the disk: what is known here is not asked for again.
        super().add(fresh)

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self.folder / SETTINGS_FILE
        if not path.exists():
            if any(self.folder.iterdir()):
                raise ConfigurationError(
                    f"{self.folder} holds files and no run: give an empty or a new "
                    "directory"
                )
            write_whole(path, json.dumps(settings, indent=2) + "\n")
            return
        found = _read_settings(path)
        keys = sorted(settings.keys() | found.keys())
        changed = [key for key in keys if found.get(key) != settings.get(key)]
        if changed:
            raise ConfigurationError(
                f"{self.folder} holds a run with another {', '.join(changed)}: resume "
                "it with the same settings, or give another directory"
            )

    def _restore(self) -> None:
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._path.open("r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                super().add([AnswerRecord.model_validate_json(line)])
            except ValidationError as error:
                raise ArtifactFormatError(
                    f"{self._path}, line {number}, is not a result of this version: "
                    "give another directory, or remove the line"
                ) from error


def write_whole(path: Path, content: str) -> None:
    """Write a file in one go: it is there as a whole, or not at all."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(content, encoding="utf-8")
    draft.replace(path)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactFormatError(
            f"{path} is not JSON: give another directory"
        ) from error
    if not isinstance(found, dict):
        raise ArtifactFormatError(f"{path} holds no settings: give another directory")
    return found
