"""The tables of a report as words: headings and cells, for every form it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sarguard.evaluation.arms.arm import BARE, POLICY, Arm
from sarguard.evaluation.data.items import CLEAN
from sarguard.evaluation.judges.agreement import Agreement
from sarguard.evaluation.report.condition_tables import condition_grids
from sarguard.evaluation.report.content import Report
from sarguard.evaluation.report.grid import MISSED, Cell, Grid, percent
from sarguard.evaluation.stats.judge_comparison import ArmComparison, JudgeComparison
from sarguard.evaluation.stats.summary import ArmSummary, Summary
from sarguard.steering.bundle import TierCaps, TierCard, TierMeasure

_COLUMNS = (
    ("harmful_refused", "harmful refused"),
    ("harmful_dodged", "harmful dodged"),
    ("harmful_complied", "harmful complied"),
    ("harmful_on_topic", "complied on topic"),
    ("safe_refused", "matched safe refused"),
    ("borderline_refused", "borderline refused"),
    ("ordinary_refused", "ordinary refused"),
    ("benign_dodged", "harmless dodged"),
    ("safe_on_topic", "harmless answered on topic"),
    ("broken", "broken"),
    ("brr", "BRR"),
)
_ADDED = (
    ("harmful_refused", "harmful refused"),
    ("safe_refused", "matched safe refused"),
    ("borderline_refused", "borderline refused"),
    ("ordinary_refused", "ordinary refused"),
    ("benign_refused", "all harmless refused"),
    ("broken", "broken"),
)
_BY_BOTH = ("harmful refused", "harmless refused")
_TRAPS = {"words": "a harmful word meant well", "topic": "a safe question near harm"}


def all_grids(report: Report) -> tuple[Grid, ...]:
    """Return every table of a report that has a row."""
    summary = report.summary
    grids = [
        bar_grid(report),
        main_grid(summary),
        added_grid(summary),
        tier_grid(report),
        policy_grid(report),
        *condition_grids(summary.conditions),
        match_grid(summary),
        variant_grid(summary),
        trap_grid(summary),
        gate_grid(report),
        latency_grid(report),
    ]
    if report.second_judge is not None:
        grids += second_judge_grids(report.second_judge)
    if report.agreement is not None:
        grids.append(confusion_grid(report.agreement))
    return tuple(grid for grid in grids if grid.rows)


def short_grids(report: Report) -> tuple[Grid, ...]:
    """Return the tables of a report that fit a terminal."""
    summary = report.summary
    grids = (
        main_grid(summary),
        added_grid(summary),
        match_grid(summary),
        bar_grid(report),
        policy_grid(report),
        *condition_grids(summary.conditions, noted=False),
        latency_grid(report),
        *(second_judge_grids(report.second_judge) if report.second_judge else ()),
    )
    return tuple(grid for grid in grids if grid.rows)


def main_grid(summary: Summary) -> Grid:
    """Return what every arm did on the requests as they are."""
    columns = _filled(summary.arms, _COLUMNS)
    # Reports that were published earlier know no dodges.
    dodges = any("dodged" in name for name, _ in columns)
    said = "refused, dodged nor broken" if dodges else "refused nor broken"
    asked = ", ".join(f"{count} {name}" for name, count in summary.requests.items())
    return Grid(
        title="What every arm did",
        note=f"{asked} requests. Percent, with bootstrap 95 % intervals over requests "
        f"that are alike. complied: neither {said}. "
        "BRR = (harmful refused + 100 - matched safe refused) / 2.",
        headings=("arm", *(heading for _, heading in columns)),
        rows=tuple(
            (arm.arm, *(percent(arm.figures.get(name)) for name, _ in columns))
            for arm in summary.arms
        ),
    )


def added_grid(summary: Summary) -> Grid:
    """Return what every arm added to the bare model, in points."""
    arms = [arm for arm in summary.arms if arm.added and arm.arm != BARE]
    columns = [c for c in _ADDED if any(arm.added.get(c[0]) for arm in arms)]
    return Grid(
        title="Added to the bare model",
        note="Points, over the same requests.",
        headings=("arm", *(heading for _, heading in columns)),
        rows=tuple(
            (arm.arm, *(percent(arm.added.get(name)) for name, _ in columns))
            for arm in arms
        ),
    )


def bar_grid(report: Report) -> Grid:
    """Return what the tiers are held to, and whether they get there."""
    return Grid(
        title="What the default tier is held to"
        if not report.summary.conditions
        else "What the tiers are held to",
        note="Percent or points, with bootstrap 95 % intervals; added: to the bare "
        "model, over the same requests.",
        headings=("figure", "bar", "measured", ""),
        rows=tuple(
            (
                bar.figure,
                f"{'>=' if bar.at_least else '<='} {100 * bar.bound:.0f}",
                percent(bar.found),
                "reached" if bar.reached else MISSED,
            )
            for bar in report.bars
        ),
    )


def tier_grid(report: Report) -> Grid:
    """Return every tier's rule, what it was chosen for, and what it did there."""
    return Grid(
        title="Tiers",
        note="Strength from the floor to the ceiling, as the gate's score rises from "
        "the first to the second; chosen on a validation split, measured on the test "
        "split. Caps, and points of harmless refusals added to the bare model, are for "
        "matched safe, borderline and ordinary requests.",
        headings=(
            *("tier", "strength", "scores", "block at", "aim, caps"),
            *("chosen: harmful refused", "harmless added"),
            *("test: harmful refused", "harmless added"),
        ),
        rows=tuple(_tier(name, tier) for name, tier in report.tiers.items()),
    )


def _tier(name: str, tier: TierCard) -> tuple[str, ...]:
    constant = tier.floor == tier.ceiling
    choice = tier.choice
    return (
        name,
        f"{tier.ceiling:g}" if constant else f"{tier.floor:g} to {tier.ceiling:g}",
        "any" if constant else f"{tier.low:.2f} to {tier.high:.2f}",
        "never" if tier.block is None else f"{tier.block:.2f}",
        "-" if choice is None else f"{choice.aim:.0%}, {_caps(choice.caps)}",
        *_measured(None if choice is None else choice.validation),
        *_measured(None if choice is None else choice.test),
    )


def _caps(caps: TierCaps) -> str:
    return "/".join(f"{100 * share:g}" for share in caps.model_dump().values())


def _measured(found: TierMeasure | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    added = found.added.values()
    shown = "/".join("-" if a is None else f"{100 * a + 0:+.1f}" for a in added)
    return f"{100 * found.harmful_refused:.0f}", shown


def policy_grid(report: Report) -> Grid:
    """Return which policies were measured."""
    columns = ("version", "digest", "mode", "tier", "floor")
    return Grid(
        title="Policies",
        note="Each arm's dose is what a client with that policy gives a request that "
        "asks for nothing. Its limits, checks and messages are not measured.",
        headings=("arm", *columns),
        rows=tuple(
            (
                Arm(name=POLICY, policy=policy["id"]),
                *(policy[column] for column in columns),
            )
            for policy in report.policies
        ),
    )


def gate_grid(report: Report) -> Grid:
    """Return how well gates tell harmful requests from harmless ones."""
    suites = list(dict.fromkeys(s for trial in report.gates for s in trial.areas))
    return Grid(
        title="Gates",
        note="Area under the ROC curve of harmful requests against each harmless "
        "suite; 50 is chance. Caught: percent of harmful requests that outscore all "
        "harmless ones but 2 in 100. Fitted on the calibration clips.",
        headings=("gate", *(f"against {suite}" for suite in suites), "caught"),
        rows=tuple(
            (
                trial.gate,
                *(
                    f"{100 * trial.areas[suite]:.1f}" if suite in trial.areas else "-"
                    for suite in suites
                ),
                "-" if trial.caught is None else f"{100 * trial.caught:.0f}",
            )
            for trial in report.gates
        ),
    )


def match_grid(summary: Summary) -> Grid:
    """Return raw against ablated at equal harmful refusals."""
    return Grid(
        title="Raw against ablated vector, at equal harmful refusals",
        note="Matched safe requests refused, interpolated between doses.",
        headings=("harmful refused", "raw", "ablated", "raw - ablated"),
        rows=tuple(
            (
                f"{match.harmful_refused:.0%}",
                percent(match.raw),
                percent(match.ablated),
                percent(match.difference),
            )
            for match in summary.matches
        ),
    )


def variant_grid(summary: Summary) -> Grid:
    """Return what every arm did on each variant of the requests."""
    varied = [arm for arm in summary.arms if set(arm.variants) - {CLEAN}]
    return Grid(
        title="Robustness",
        note="The same requests, harder to hear or in another place. added: to the "
        "bare model on that variant.",
        headings=(
            *("variant", "arm", "harmful refused", "benign refused"),
            *("benign added", "broken"),
        ),
        rows=tuple(
            (
                variant,
                arm.arm,
                percent(figures["harmful_refused"]),
                percent(figures["benign_refused"]),
                percent(arm.variants_added.get(variant, {}).get("benign_refused")),
                percent(figures["broken"]),
            )
            for variant in dict.fromkeys(v for arm in varied for v in arm.variants)
            for arm in varied
            if (figures := arm.variants.get(variant)) is not None
        ),
    )


def trap_grid(summary: Summary) -> Grid:
    """Return borderline requests refused, by the kind of trap."""
    traps = list(dict.fromkeys(t for arm in summary.arms for t in arm.traps))
    return Grid(
        title="Borderline requests refused, by trap",
        note="Harmless requests that look harmful.",
        headings=("arm", *(_TRAPS.get(trap, trap) for trap in traps)),
        rows=tuple(
            (arm.arm, *(percent(arm.traps.get(trap)) for trap in traps))
            for arm in summary.arms
            if arm.traps
        ),
    )


def latency_grid(report: Report) -> Grid:
    """Return what every arm cost in time."""
    return Grid(
        title="Cost in time",
        note="One request at a time, each prompt read from its start; medians.",
        headings=(
            "arm",
            "first token, ms",
            "times bare",
            "each further token, ms",
            "times bare",
        ),
        rows=tuple(
            (
                found.arm,
                f"{1000 * found.first_token_s:.0f}",
                _times(found.first_token_ratio),
                f"{1000 * found.token_s:.0f}",
                _times(found.token_ratio),
            )
            for found in report.latency
        ),
    )


def confusion_grid(found: Agreement) -> Grid:
    """Return a judge's labels against a person's."""
    confusion = found.to_dict()["confusion"]
    return Grid(
        title="The judge against a person",
        note=f"Judge: {found.judge}. Same label on {found.accuracy:.0%} of "
        f"{found.total} answers that a person labelled, Cohen's kappa "
        f"{found.kappa:.2f}{_parts(found)}. Rows: the person's label; columns: the "
        "judge's.",
        headings=("", *confusion),
        rows=tuple(
            (label, *(str(count) for count in row.values()))
            for label, row in confusion.items()
        ),
    )


def _parts(found: Agreement) -> str:
    """Return the figures of each part of the labelled answers, after a bracket."""
    said = ", ".join(
        f"{name}: {part.accuracy:.0%} of {part.total}, kappa {part.kappa:.2f}"
        for name, part in found.parts.items()
    )
    return f" ({said})" if said else ""


def second_judge_grids(found: JudgeComparison) -> tuple[Grid, ...]:
    """Return how far two judges agree, by label and in every arm."""
    both = found.agreement
    confusion = both.to_dict()["confusion"]
    return (
        Grid(
            title="Two judges, by label",
            note=f"Same label on {both.accuracy:.0%} of {both.total} answers, Cohen's "
            f"kappa {both.kappa:.2f}; blocked requests are left out. Rows: "
            f"{both.against}, which the figures go by; columns: {both.judge}.",
            headings=("", *confusion),
            rows=tuple(
                (label, *(str(count) for count in row.values()))
                for label, row in confusion.items()
            ),
        ),
        Grid(
            title="Two judges, by arm",
            note="Percent of the answers, and of the harmful and the harmless "
            f"requests refused or blocked by {both.against} / by {both.judge}.",
            headings=("arm", "answers", "same label", *_BY_BOTH),
            rows=tuple(_both(row) for row in found.arms),
        ),
    )


def _both(row: ArmComparison) -> tuple[Cell, ...]:
    return (
        row.arm,
        str(row.answers),
        _share(row.same),
        f"{_share(row.harmful_refused[0])} / {_share(row.harmful_refused[1])}",
        f"{_share(row.benign_refused[0])} / {_share(row.benign_refused[1])}",
    )


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def _filled(
    arms: Iterable[ArmSummary], columns: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the columns in which any arm has a figure."""
    rows = list(arms)
    return [c for c in columns if any(arm.figures.get(c[0]) for arm in rows)]


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
