"""The result of verifying a ledger, and what it does not prove."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_PROBLEMS = 100
"""Problems written out; further ones are counted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not fit."""

    code: str
    text: str
    seq: int | None = None
    """The record it was found at."""


@dataclass(slots=True)
class Problems:
    """Problems found so far: the first ones, and the count of all."""

    count: int = 0
    kept: list[Problem] = field(default_factory=list)

    def add(self, code: str, text: str, seq: int | None = None) -> None:
        """Note a problem."""
        self.count += 1
        if len(self.kept) < MAX_PROBLEMS:
            self.kept.append(Problem(code, text, seq))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """Result of verifying a ledger."""

    path: str
    origin: str
    size: int
    """The number of the last record."""
    records: int
    """How many records were read and checked."""
    buried: int
    """How many were deleted by retention and are known by their hashes."""
    root: str
    keys: tuple[str, ...]
    """The keys that signed, in order, as verifier keys."""
    checkpoints: int
    """How many checkpoints were checked, outside copies included."""
    signed_size: int
    """The records that a valid checkpoint covers."""
    anchored_size: int
    """The records that a valid outside copy of a checkpoint covers."""
    unfinished: int
    """Requests that began and have no outcome."""
    unrecorded: int
    """Requests that a policy let go unrecorded, as the ledger itself says."""
    problem_count: int
    problems: tuple[Problem, ...]
    not_proven: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Return whether everything fits."""
        return self.problem_count == 0

    @property
    def exit_code(self) -> int:
        """Return 0 if everything fits, 1 if something does not."""
        return 0 if self.ok else 1

    def __str__(self) -> str:
        head = "VALID" if self.ok else f"NOT VALID: {self.problem_count} problem(s)"
        lines = [
            f"{head}: {self.path}",
            f"records: {self.size} ({self.records} read, {self.buried} buried), "
            f"signed: {self.signed_size}, anchored outside: {self.anchored_size}, "
            f"checkpoints: {self.checkpoints}",
            f"requests without an outcome: {self.unfinished}, "
            f"let go unrecorded: {self.unrecorded}",
            *(f"problem: {problem.text}" for problem in self.problems),
            *(f"not proven: {text}" for text in self.not_proven),
        ]
        return "\n".join(lines)


NEVER_PROVEN = (
    "that what the records say is true, or that every request was recorded: a "
    "program that does not use the ledger leaves no trace in it",
    "that the clock was right: times are those of the machine that wrote",
    "that who holds the signing key did not rewrite what no outside copy covers",
)


def not_proven(*, size: int, signed: int, anchored: int, key: bool) -> tuple[str, ...]:
    """Return what verifying leaves open, in words for a reviewer."""
    open_points = []
    if not anchored:
        open_points.append(
            "that no records were cut off the end, or that the whole ledger was not "
            "replaced: no checkpoint from outside was given"
        )
    elif anchored < size:
        open_points.append(
            f"that no records were cut off after record {size}: the newest outside "
            f"checkpoint covers {anchored}"
        )
    if signed < size:
        open_points.append(
            f"who wrote records {signed + 1} to {size}: they are not signed"
        )
    if not key:
        open_points.append(
            "that the signing key is the operator's: it was taken from the ledger "
            "itself, none was given"
        )
    return (*open_points, *NEVER_PROVEN)
