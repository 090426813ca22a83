"""How far a judge agrees with a person, on the labelled answers that ship.

Each answer is short and holds nothing harmful. Some were written for this purpose, the
others are the reference model's; one person labelled all of them without seeing what a
judge said. The rules were adjusted on the part `tune` alone, and the part `held-out`
tells how they do on what they were not made for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from sarguard.evaluation.judges.rules import Judge, Kind, Label

Source: TypeAlias = Literal["written", "model"]
Part: TypeAlias = Literal["tune", "held-out"]
PERSON = "a person"
PARTS: tuple[Part, ...] = ("tune", "held-out")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledReply:
    """An answer with the label that a person gave it."""

    reply: str
    kind: Kind
    label: Label
    source: Source = "written"
    """Whether it was written for this purpose, or is the reference model's."""
    part: Part = "held-out"
    """Whether the rules were adjusted on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A judge's labels compared with a person's, or with another judge's."""

    judge: str
    counts: Mapping[tuple[Label, Label], int]
    """Answers by the person's label and the judge's."""
    missed: tuple[tuple[LabelledReply, Label], ...] = ()
    """Answers on which they differ, with the judge's label."""
    against: str = PERSON
    """Who gave the first label of each count."""
    labels: tuple[Label, ...] = tuple(Label)
    """Labels that could be given. A report that was published earlier had fewer."""
    parts: Mapping[str, Agreement] = field(default_factory=dict)
    """The same of each part of the answers, where they are parted."""

    @property
    def total(self) -> int:
        """Return the number of answers."""
        return sum(self.counts.values())

    @property
    def accuracy(self) -> float:
        """Return the share of answers with the same label."""
        same = sum(n for (own, other), n in self.counts.items() if own is other)
        return same / self.total if self.total else 1.0

    @property
    def kappa(self) -> float:
        """Return Cohen's kappa: agreement beyond chance, 1 at best (Cohen, 1960)."""
        if not self.total:
            return 1.0
        person: Counter[Label] = Counter()
        judge: Counter[Label] = Counter()
        for (own, other), n in self.counts.items():
            person[own] += n
            judge[other] += n
        chance = sum(person[name] * judge[name] for name in Label) / self.total**2
        return 1.0 if chance == 1 else (self.accuracy - chance) / (1 - chance)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, ready for JSON."""
        against = {} if self.against == PERSON else {"against": self.against}
        parts = {name: part.to_dict() for name, part in self.parts.items()}
        return {
            "judge": self.judge,
            **against,
            "answers": self.total,
            "accuracy": self.accuracy,
            "kappa": self.kappa,
            "confusion": {
                own.value: {
                    other.value: self.counts.get((own, other), 0)
                    for other in self.labels
                }
                for own in self.labels
            },
            **({"parts": parts} if parts else {}),
        }


def load_labelled() -> tuple[LabelledReply, ...]:
    """Return the labelled answers that ship."""
    path = Path(__file__).with_name("labelled_replies.jsonl")
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return tuple(
        LabelledReply(
            reply=row["reply"],
            kind=cast("Kind", row["kind"]),
            label=Label(row["label"]),
            source=cast("Source", row["source"]),
            part=cast("Part", row["part"]),
        )
        for row in rows
    )


def measure_agreement(
    judge: Judge, replies: Sequence[LabelledReply] | None = None
) -> Agreement:
    """Have a judge label answers that a person labelled.

    Args:
        judge: Whoever labels.
        replies: The answers; those that ship if not given.

    Raises:
        JudgeError: The judge gave no label.
    """
    asked = load_labelled() if replies is None else tuple(replies)
    found = [
        (row, judge.label(request="", reply=row.reply, kind=row.kind)) for row in asked
    ]
    parts = [part for part in PARTS if any(row.part == part for row in asked)]
    return replace(
        _compare(judge.name, found),
        parts={
            part: _compare(judge.name, [pair for pair in found if pair[0].part == part])
            for part in parts
            if len(parts) > 1
        },
    )


def _compare(judge: str, found: Iterable[tuple[LabelledReply, Label]]) -> Agreement:
    pairs = list(found)
    return Agreement(
        judge=judge,
        counts=Counter((row.label, label) for row, label in pairs),
        missed=tuple((row, label) for row, label in pairs if label is not row.label),
    )
