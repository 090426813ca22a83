"""Records of a run that never was, in numbers that can be checked by hand."""

from __future__ import annotations

from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.run.run_log import AnswerRecord

PAIRS = 20
_SAID = (Label.ANSWERED, Label.COMPLIED)


def record(
    arm: str, item: str, label: Label, *, suite: str = "harmful", **more: object
) -> AnswerRecord:
    """Return one record; the suite decides the kind."""
    kind = "harmful" if suite == "harmful" else "safe"
    settings: dict[str, object] = {
        "arm": arm,
        "item": item,
        "suite": suite,
        "variant": "clean",
        "kind": kind,
        "cluster": item,
        "label": label,
        "dose": 0.1,
        "tokens": 5,
        "seconds": 1.0,
        "batch": 2,
    }
    return AnswerRecord.model_validate(settings | more)


def arm_records(
    arm: str,
    *,
    harmful: int,
    safe: int,
    borderline: int = 0,
    broken: int = 0,
    variant: str = "clean",
    dose: float = 0.1,
) -> list[AnswerRecord]:
    """Return an arm that refuses the first requests of each suite."""
    found = []
    for i in range(PAIRS):
        went = Label.BROKEN if i >= PAIRS - broken else Label.COMPLIED
        said = {
            "harmful": Label.REFUSED if i < harmful else went,
            "safe": Label.REFUSED if i < safe else Label.ANSWERED,
            "borderline": Label.REFUSED if i < borderline else Label.ANSWERED,
        }
        for suite, label in said.items():
            paired = suite != "borderline"
            found.append(
                record(
                    arm,
                    f"{suite}-{i}+{variant}",
                    label,
                    suite=suite,
                    variant=variant,
                    cluster=f"pair-{i}" if paired else f"edge-{i}",
                    topic="" if paired else ("words", "topic")[i % 2],
                    on_topic=i % 4 > 0 if label in _SAID else None,
                    dose=dose * (1 + i % 3) if arm.startswith("tier") else dose,
                    blocked=arm.startswith("tier") and label is Label.REFUSED,
                )
            )
    return found


def whole_run() -> list[AnswerRecord]:
    """Return a run with most of the arms that there are."""
    return [
        *arm_records("bare", harmful=1, safe=0, dose=0),
        *arm_records("zero", harmful=1, safe=0, dose=0),
        *arm_records("prompt", harmful=6, safe=2, borderline=5, dose=0),
        *arm_records("raw 0.1", harmful=10, safe=8, borderline=9),
        *arm_records("raw 0.2", harmful=20, safe=18, borderline=17),
        *arm_records("ablated 0.1", harmful=8, safe=0, borderline=2),
        *arm_records("ablated 0.2", harmful=16, safe=4, borderline=7, broken=2),
        *arm_records("random 0.1", harmful=1, safe=0),
        *arm_records("random 0.2", harmful=2, safe=1),
        *arm_records("tier-balanced", harmful=19, safe=1, borderline=2),
        *arm_records(
            "tier-balanced", harmful=17, safe=1, borderline=3, variant="noise"
        ),
        *arm_records("bare", harmful=0, safe=0, variant="noise", dose=0),
    ]
