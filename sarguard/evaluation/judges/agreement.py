"""How far a judge agrees with a person, on the labelled answers that ship.

The answers were written and labelled by hand for this purpose, short and without
harmful content. The rules were fixed before the answers were written and were not
changed afterwards.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sarguard.evaluation.judges.rules import Judge, Kind, Label


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledReply:
    """An answer with the label that a person gave it."""

    reply: str
    kind: Kind
    label: Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A judge's labels compared with a person's."""

    judge: str
    counts: dict[tuple[Label, Label], int]
    """Answers by the person's label and the judge's."""
    missed: tuple[tuple[LabelledReply, Label], ...]
    """Answers on which they differ, with the judge's label."""

    @property
    def total(self) -> int:
        """Return the number of answers."""
        return sum(self.counts.values())

    @property
    def accuracy(self) -> float:
        """Return the share of answers with the same label."""
        same = sum(n for (own, other), n in self.counts.items() if own is other)
        return same / self.total

    @property
    def kappa(self) -> float:
        """Return Cohen's kappa: agreement beyond chance, 1 at best (Cohen, 1960)."""
        person: Counter[Label] = Counter()
        judge: Counter[Label] = Counter()
        for (own, other), n in self.counts.items():
            person[own] += n
            judge[other] += n
        chance = sum(person[name] * judge[name] for name in Label) / self.total**2
        return 1.0 if chance == 1 else (self.accuracy - chance) / (1 - chance)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, ready for JSON."""
        return {
            "judge": self.judge,
            "answers": self.total,
            "accuracy": self.accuracy,
            "kappa": self.kappa,
            "confusion": {
                own.value: {
                    other.value: self.counts.get((own, other), 0) for other in Label
                }
                for own in Label
            },
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
        )
        for row in rows
    )


def measure_agreement(
    judge: Judge, replies: Sequence[LabelledReply] | None = None
) -> Agreement:
    """Have a judge label answers that a person labelled.

    Raises:
        JudgeError: The judge gave no label.
    """
    counts: Counter[tuple[Label, Label]] = Counter()
    missed: list[tuple[LabelledReply, Label]] = []
    for row in load_labelled() if replies is None else replies:
        found = judge.label(request="", reply=row.reply, kind=row.kind)
        counts[row.label, found] += 1
        if found is not row.label:
            missed.append((row, found))
    return Agreement(judge=judge.name, counts=dict(counts), missed=tuple(missed))
