"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Say how much a finding matters."""

    OK = "ok"

    NOTE = "note"
    """Worth knowing; sarguard works."""

    PROBLEM = "problem"
    """Something that is required cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Hold what was looked at, what was found, and how to fix it."""

    name: str
    state: State
    found: str
    fix: str = ""
    """What to do; never empty for a problem."""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain values, ready for JSON."""
        return {**asdict(self), "state": self.state.value}


def ok(name: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(name=name, state=State.OK, found=found)


def note(name: str, found: str, fix: str = "") -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(name=name, state=State.NOTE, found=found, fix=fix)


def problem(name: str, found: str, fix: str) -> Finding:
    """Return a finding that has to be fixed."""
    return Finding(name=name, state=State.PROBLEM, found=found, fix=fix)
