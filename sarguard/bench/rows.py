"""What a bench reports: its rows, and the machine that they are read with."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from sarguard.models.transformers_api import installed_version

T = TypeVar("T")
U = TypeVar("U")
Unit = Literal["ms", "s", "MiB", "answers/s"]

_DIGITS: dict[Unit, int] = {"ms": 2, "s": 3, "MiB": 1, "answers/s": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a figure has to be."""

    sense: Literal["<=", "<", ">="]
    limit: float
    unit: str = ""

    def met(self, value: float) -> bool:
        """Return whether a figure is what it has to be."""
        if self.sense == "<":
            return value < self.limit
        return value <= self.limit if self.sense == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.sense} {self.limit:g}{self.unit and ' ' + self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A figure: one value a repeat, each from two arms that took turns."""

    what: str
    on: str
    """The model, or the machine."""
    bar: Bar
    values: tuple[float, ...]
    ours: float | None = None
    """Median of our arm; None where there is but one arm."""
    other: float | None = None
    unit: Unit = "ms"
    """Of the two arms."""
    note: str = ""

    @property
    def median(self) -> float:
        """Return the median of the repeats, which is held against the bar."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """Return the first and the third quartile; None for a single repeat."""
        if len(self.values) < 2:
            return None
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def met(self) -> bool:
        """Return whether the median is what it has to be."""
        return self.bar.met(self.median)

    @property
    def arms(self) -> str:
        """Return the two arms' medians in words."""
        if self.ours is None or self.other is None:
            return self.note
        digits = _DIGITS[self.unit]
        said = f"{self.ours:.{digits}f} against {self.other:.{digits}f} {self.unit}"
        return f"{said}; {self.note}" if self.note else said

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
        return {
            "what": self.what,
            "on": self.on,
            "bar": str(self.bar),
            "met": self.met,
            "median": self.median,
            "quartiles": self.quartiles,
            "values": self.values,
            "ours": self.ours,
            "other": self.other,
            "unit": self.unit,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A row that was not measured, and why."""

    what: str
    on: str
    bar: Bar
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
        return {
            "what": self.what,
            "on": self.on,
            "bar": str(self.bar),
            "skipped": self.reason,
        }


Row: TypeAlias = Measured | Skipped


def in_turn(
    ours: Callable[[], T], other: Callable[[], U], *, repeats: int
) -> list[tuple[T, U]]:
    """Run two arms in turn, so that a busy moment of the machine hits both.

    Returns:
        What they returned, (ours, other), a pair a repeat. Who goes first alternates.
    """
    found = []
    for turn in range(repeats):
        if turn % 2 == 0:
            mine = ours()
            theirs = other()
        else:
            theirs = other()
            mine = ours()
        found.append((mine, theirs))
    return found


def medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the median of either arm."""
    ours, other = zip(*pairs, strict=True)
    return statistics.median(ours), statistics.median(other)


def describe_machine() -> dict[str, Any]:
    """Return the machine's make and load, and the versions in use."""
    gpus = [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "transformers": installed_version(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
