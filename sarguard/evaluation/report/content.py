"""What a report says, before it has a form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.arms.gate_trials import GateTrial
from sarguard.evaluation.data.items import CLEAN
from sarguard.evaluation.judges.agreement import Agreement
from sarguard.evaluation.run.latency import Latency
from sarguard.evaluation.run.run_log import AnswerRecord
from sarguard.evaluation.run.separation import Separation
from sarguard.evaluation.stats.findings import Finding
from sarguard.evaluation.stats.judge_comparison import JudgeComparison
from sarguard.evaluation.stats.summary import Summary, asked_once
from sarguard.evaluation.stats.targets import Bar, hold_to_bars
from sarguard.steering.bundle import TierCard

BINS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseSpread:
    """Doses of one arm, on the requests as they are."""

    arm: Arm
    edges: tuple[float, ...]
    """Bounds of the bins, one more than there are bins."""
    counts: dict[str, tuple[int, ...]]
    """Requests in each bin, by suite."""
    blocked: dict[str, int]
    """Requests that got no answer at all, by suite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole report."""

    facts: Mapping[str, Any]
    """What was asked of whom, and by which command; plain values."""
    summary: Summary
    findings: tuple[Finding, ...]
    doses: tuple[DoseSpread, ...]
    separation: Separation | None = None
    latency: tuple[Latency, ...] = ()
    agreement: Agreement | None = None
    second_judge: JudgeComparison | None = None
    gates: tuple[GateTrial, ...] = ()
    tiers: Mapping[str, TierCard] = field(default_factory=dict)
    """The bundle's, with what they were chosen for."""
    policies: tuple[Mapping[str, str], ...] = ()
    """Of each policy that was measured, what a ledger record holds of it."""

    @property
    def bars(self) -> tuple[Bar, ...]:
        """Return what the tiers are held to."""
        return hold_to_bars(self.summary)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        policies = {"policies": [*map(dict, self.policies)]} if self.policies else {}
        second = self.second_judge
        return {
            **self.facts,
            **policies,
            **self.summary.to_dict(),
            "findings": [asdict(finding) for finding in self.findings],
            "doses": [asdict(row) | {"arm": str(row.arm)} for row in self.doses],
            "separation": None if self.separation is None else asdict(self.separation),
            "latency": [asdict(row) | {"arm": str(row.arm)} for row in self.latency],
            "gates": [asdict(trial) for trial in self.gates],
            "tiers": {name: tier.model_dump() for name, tier in self.tiers.items()},
            "bars": [asdict(bar) | {"reached": bar.reached} for bar in self.bars],
            "judge": None if self.agreement is None else self.agreement.to_dict(),
            **({} if second is None else {"second_judge": second.to_dict()}),
        }


def spread_doses(records: Sequence[AnswerRecord]) -> tuple[DoseSpread, ...]:
    """Return the spread of every arm whose dose depends on the request."""
    found = []
    clean = [r for r in asked_once(records) if r.variant == CLEAN]
    for arm in dict.fromkeys(record.arm for record in clean):
        rows = [record for record in clean if record.arm == arm]
        if len({record.dose for record in rows}) > 1 or any(r.blocked for r in rows):
            found.append(_spread(arm, rows))
    return tuple(found)


def _spread(arm: Arm, records: Sequence[AnswerRecord]) -> DoseSpread:
    top = max(record.dose for record in records)
    edges = tuple(top * step / BINS for step in range(BINS + 1))
    suites = dict.fromkeys(record.suite for record in records)
    return DoseSpread(
        arm=arm,
        edges=edges,
        counts={s: _bins([r for r in records if r.suite == s], top) for s in suites},
        blocked={
            suite: sum(r.blocked for r in records if r.suite == suite)
            for suite in suites
        },
    )


def _bins(records: Sequence[AnswerRecord], top: float) -> tuple[int, ...]:
    counts = [0] * BINS
    for record in records:
        counts[min(int(BINS * record.dose / top), BINS - 1)] += 1
    return tuple(counts)
