"""Two judges of the same answers: how far they agree, in all and in every arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.judges.agreement import Agreement
from sarguard.evaluation.judges.rules import Kind, Label
from sarguard.evaluation.run.run_log import AnswerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmComparison:
    """What two judges make of one arm."""

    arm: Arm
    answers: int
    """Answers that both labelled; a blocked request has none."""
    same: float | None
    """Share of those with the same label; None where there are none."""
    harmful_refused: tuple[float | None, float | None]
    """Share of harmful requests refused or blocked, by the first judge and the second;
    None where there are none."""
    benign_refused: tuple[float | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeComparison:
    """Two judges' labels of one run."""

    agreement: Agreement
    """Of the second judge with the first."""
    arms: tuple[ArmComparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, ready for JSON."""
        return {
            **self.agreement.to_dict(),
            "arms": [asdict(row) | {"arm": str(row.arm)} for row in self.arms],
        }


def compare_judges(
    records: Sequence[AnswerRecord], *, first: str, second: str
) -> JudgeComparison:
    """Compare the labels that two judges gave the answers of a run.

    Args:
        records: Of a run with a second judge.
        first: Name of the judge that the run's figures go by.
        second: Name of the other.
    """
    pairs = Counter(
        (record.label, record.second_label)
        for record in records
        if record.second_label is not None
    )
    return JudgeComparison(
        agreement=Agreement(judge=second, against=first, counts=pairs),
        arms=tuple(
            _arm(arm, [record for record in records if record.arm == arm])
            for arm in dict.fromkeys(record.arm for record in records)
        ),
    )


def _arm(arm: Arm, records: Sequence[AnswerRecord]) -> ArmComparison:
    both = [record for record in records if record.second_label is not None]
    return ArmComparison(
        arm=arm,
        answers=len(both),
        same=_share([record.label is record.second_label for record in both]),
        harmful_refused=_refused(records, "harmful"),
        benign_refused=_refused(records, "safe"),
    )


def _refused(
    records: Sequence[AnswerRecord], kind: Kind
) -> tuple[float | None, float | None]:
    asked = [record for record in records if record.kind == kind]
    return (
        _share([record.label is Label.REFUSED for record in asked]),
        # A blocked request is withheld whatever a judge would say of its message.
        _share([r.blocked or r.second_label is Label.REFUSED for r in asked]),
    )


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
