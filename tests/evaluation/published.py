"""The published reports, read back from their JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.arms.gate_trials import GateTrial
from sarguard.evaluation.judges.agreement import PERSON, Agreement
from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.report import DoseSpread, Report
from sarguard.evaluation.run.latency import Latency
from sarguard.evaluation.run.separation import Separation
from sarguard.evaluation.stats.findings import Finding
from sarguard.evaluation.stats.judge_comparison import ArmComparison, JudgeComparison
from sarguard.evaluation.stats.rates import Rate
from sarguard.evaluation.stats.summary import ArmSummary, Match, Summary
from sarguard.steering.bundle import TierCard

DOCS = Path(__file__).resolve().parents[2] / "docs" / "evaluation"
FOLDERS = (DOCS, DOCS / "forms")


def read_report(folder: Path) -> Report:
    """Return the report that `report.json` was written from."""
    content = json.loads((folder / "report.json").read_text("utf-8"))
    names = list(content)
    return Report(
        facts={name: content[name] for name in names[: names.index("requests")]},
        summary=Summary(
            requests=content["requests"],
            arms=tuple(_arm(row) for row in content["arms"]),
            matches=tuple(_match(row) for row in content["matches"]),
        ),
        findings=tuple(Finding(**row) for row in content["findings"]),
        doses=tuple(_spread(row) for row in content["doses"]),
        separation=Separation(**content["separation"]),
        latency=tuple(
            Latency(**row | {"arm": Arm.parse(row["arm"])})
            for row in content["latency"]
        ),
        agreement=_agreement(content["judge"]),
        second_judge=_comparison(content.get("second_judge")),
        gates=tuple(GateTrial(**row) for row in content["gates"]),
        tiers={n: TierCard.model_validate(t) for n, t in content["tiers"].items()},
    )


def _arm(row: dict[str, Any]) -> ArmSummary:
    return ArmSummary(
        arm=Arm.parse(row["arm"]),
        figures=_rates(row["figures"]),
        added=_rates(row["added"]),
        variants={name: _rates(found) for name, found in row["variants"].items()},
        variants_added={n: _rates(f) for n, f in row["variants_added"].items()},
        traps=_rates(row["traps"]),
        answers=row["answers"],
        seconds=row["seconds"],
    )


def _match(row: dict[str, Any]) -> Match:
    level = row.pop("harmful_refused")
    return Match(harmful_refused=level, **_rates(row))


def _spread(row: dict[str, Any]) -> DoseSpread:
    return DoseSpread(**row | {"arm": Arm.parse(row["arm"])})


def _rates(rows: dict[str, Any]) -> dict[str, Any]:
    return {name: None if row is None else Rate(**row) for name, row in rows.items()}


def _agreement(row: dict[str, Any]) -> Agreement:
    counts = {
        (Label(ours), Label(theirs)): number
        for ours, among in row["confusion"].items()
        for theirs, number in among.items()
    }
    return Agreement(
        judge=row["judge"],
        counts=counts,
        against=row.get("against", PERSON),
        # What was published before a label was added knows the others only.
        labels=tuple(map(Label, row["confusion"])),
        parts={name: _agreement(part) for name, part in row.get("parts", {}).items()},
    )


def _comparison(row: dict[str, Any] | None) -> JudgeComparison | None:
    if row is None:
        return None
    arms = (
        ArmComparison(
            **arm
            | {
                "arm": Arm.parse(arm["arm"]),
                "harmful_refused": tuple(arm["harmful_refused"]),
                "benign_refused": tuple(arm["benign_refused"]),
            }
        )
        for arm in row["arms"]
    )
    return JudgeComparison(agreement=_agreement(row), arms=tuple(arms))
