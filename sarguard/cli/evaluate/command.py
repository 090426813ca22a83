"""`sarguard evaluate MODEL`: what a guard changes, measured in many arms."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.cli.evaluate.judges import Judges, open_judges
from sarguard.cli.evaluate.options import add_options, command_line
from sarguard.cli.evaluate.plan import (
    Plan,
    choose_items,
    fill_in,
    leave_out_clips,
    plan_run,
)
from sarguard.cli.options import check_writable

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from sarguard.cli.options import Commands
    from sarguard.datasets import CalibrationPair
    from sarguard.evaluation.arms.controls import Samples
    from sarguard.evaluation.arms.gate_trials import GateTrial
    from sarguard.evaluation.arms.registry import Setup
    from sarguard.evaluation.data.items import Item
    from sarguard.evaluation.judges.agreement import Agreement
    from sarguard.evaluation.report import Report
    from sarguard.evaluation.report.grid import Grid
    from sarguard.evaluation.run.latency import Latency
    from sarguard.evaluation.run.run_log import MemoryLog
    from sarguard.evaluation.run.runner import RunOptions
    from sarguard.evaluation.run.separation import Separation
    from sarguard.models.loading import LoadedModel
    from sarguard.steering.bundle import SteeringBundle

_MAX_REPLY = 70
"""Characters of an answer that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What was asked, and what came of it."""

    setup: Setup
    items: list[Item]
    plan: Plan
    log: MemoryLog
    states: dict[str, Tensor]
    """Clean states of the requests that were asked in this process."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure refusals, over-refusals and broken answers",
        description="Ask held-out spoken requests, harmful, matched safe, borderline "
        "and ordinary, in many arms: the bare model, a written defence, the raw and "
        "the safe-ablated vector at several doses, tiers, policies, and controls. "
        "Greedy.",
    )
    add_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Measure, and write the tables."""
    for file in (options.json, options.markdown):
        check_writable(file)
    if options.threats is not None:
        from sarguard.evaluation.report.threats import read_threats

        # Its markers too, before the measurement and not after it.
        read_threats(Path(options.threats))
    with open_judges(options) as judges:
        if options.check_judge:
            return _check_judge(options, judges)
        return _evaluate(options, judges)


def _evaluate(options: argparse.Namespace, judges: Judges) -> int:
    from sarguard.cli.load import open_model_and_bundle
    from sarguard.cli.screen import steps
    from sarguard.evaluation.run.runner import run_arms

    facts = {"command": command_line(options)}
    fill_in(options)
    plan = plan_run(options)
    chosen = choose_items(options)
    loaded, bundle = open_model_and_bundle(options)
    items = leave_out_clips(chosen, single_audio=loaded.single_audio)
    _say_left_out(loaded, chosen, items)
    setup = _setup(loaded, bundle, plan)
    facts |= _facts(options, setup, judges)
    log = _log(options, facts, items, plan)
    run_options = _run_options(options, setup, items, judges)
    run = Run(setup=setup, items=items, plan=plan, log=log, states={})
    with steps(f"{len(items)} requests in {len(plan.arms)} arms") as advance:
        run_arms(
            setup,
            items,
            plan.arms,
            varied=plan.varied,
            run_options=run_options,
            log=log,
            states=run.states,
            progress=advance,
        )
    _write(options, _report(options, run, facts, judges))
    return 0


def _say_left_out(loaded: LoadedModel, chosen: list[Item], kept: list[Item]) -> None:
    from sarguard.cli.screen import remarks

    left = {item.variant for item in chosen} - {item.variant for item in kept}
    if left:
        remarks().print(
            f"{loaded.name} takes one clip a conversation, so these are left out: "
            f"{', '.join(sorted(left))}",
            markup=False,
        )


def _check_judge(options: argparse.Namespace, judges: Judges) -> int:
    from sarguard.cli.screen import print_json, results
    from sarguard.evaluation.judges.agreement import measure_agreement

    found = [
        measure_agreement(judge) for judge in (judges.first, judges.second) if judge
    ]
    if options.json == "-":
        both = {} if len(found) == 1 else {"second_judge": found[1].to_dict()}
        print_json(found[0].to_dict() | both)
        return 0
    console = results()
    for agreement in found:
        _print_agreement(console, agreement)
    return 0


def _print_agreement(console: Console, found: Agreement) -> None:
    from rich.text import Text

    from sarguard.evaluation.report.tables import confusion_grid

    _print(console, confusion_grid(found))
    for row, label in found.missed:
        shown = row.reply[:_MAX_REPLY].replace("\n", " ")
        console.print(Text(f"{row.label} labelled {label}: {shown}", style="dim"))


def _setup(loaded: LoadedModel, bundle: SteeringBundle, plan: Plan) -> Setup:
    from sarguard.calibration.recipe import Recipe
    from sarguard.cli.screen import remarks
    from sarguard.datasets import load_benign, load_pairs
    from sarguard.evaluation.arms.controls import Recalibration
    from sarguard.evaluation.arms.registry import Setup

    card, rate = bundle.card, loaded.sampling_rate
    recipe = Recipe(
        instruction=card.instruction, refusal=card.refusal, rank=card.rank, lam=card.lam
    )

    def pairs() -> list[CalibrationPair]:
        remarks().print("Calibrating again, for an arm that needs it", markup=False)
        return load_pairs("calibration", sample_rate=rate)

    def requests() -> list[Samples]:
        held = load_pairs("validation", sample_rate=rate)
        return [clip for pair in held for clip in (pair.harmful, pair.safe)]

    again = Recalibration(
        loaded,
        recipe,
        pairs=pairs,
        benign=lambda: load_benign(sample_rate=rate),
        requests=requests,
    )
    return Setup(loaded=loaded, bundle=bundle, again=again, policies=plan.policies)


def _facts(options: argparse.Namespace, setup: Setup, judges: Judges) -> dict[str, Any]:
    from sarguard import __version__

    return {
        "title": f"sarguard evaluation: {setup.loaded.name}",
        "model": setup.loaded.name,
        "bundle_digest": setup.bundle.digest,
        "voices": options.voice,
        "part": options.part,
        "text": options.text,
        "max_new_tokens": options.max_new_tokens,
        "decoding": _decoding(options),
        "judged_by": judges.first.name,
        **({} if judges.second is None else {"also_judged_by": judges.second.name}),
        "version": __version__,
    }


def _decoding(options: argparse.Namespace) -> str:
    sampled = sorted({value for value in options.temperatures if value > 0})
    if not sampled:
        return "greedy"
    said = ", ".join(f"{value:g}" for value in sampled)
    return f"greedy, and {options.tries} time(s) at temperature {said}"


def _log(
    options: argparse.Namespace,
    facts: dict[str, Any],
    items: list[Item],
    plan: Plan,
) -> MemoryLog:
    from sarguard.evaluation.data.items import digest_items
    from sarguard.evaluation.run.run_log import MemoryLog, RunLog

    if options.out is None:
        return MemoryLog()
    settings = {name: facts[name] for name in facts if name not in ("title", "command")}
    settings |= {
        "requests": digest_items(items),
        "arms": [str(arm) for arm in plan.arms],
        "varied": [str(arm) for arm in plan.varied],
        "batch_size": options.batch_size,
        "topic": not options.no_topic,
    }
    if plan.policies:
        # An id does not say that a policy is still what it was.
        settings["policies"] = [policy["digest"] for policy in _policies(plan)]
    return RunLog(Path(options.out), settings)


def _policies(plan: Plan) -> tuple[dict[str, str], ...]:
    """Return what a ledger record holds of each policy that is measured."""
    in_force = [effective.in_force.at() for effective in plan.policies.values()]
    return tuple(policy.record_fields() for policy in in_force)


def _run_options(
    options: argparse.Namespace, setup: Setup, items: list[Item], judges: Judges
) -> RunOptions:
    from sarguard.cli.screen import working
    from sarguard.evaluation.judges.topic import TopicJudge
    from sarguard.evaluation.run.draws import plan_draws
    from sarguard.evaluation.run.runner import RunOptions, answer_as_text

    topic = None
    if not options.no_topic and any(item.request for item in items):
        with working("Answering in writing, to tell what is off topic"):
            references = answer_as_text(
                setup.loaded,
                items,
                max_new_tokens=options.max_new_tokens,
                batch_size=options.batch_size,
            )
        topic = TopicJudge(references)
    return RunOptions(
        judge=judges.first,
        second_judge=judges.second,
        topic=topic,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        draws=plan_draws(options.temperatures, options.tries),
    )


def _report(
    options: argparse.Namespace, run: Run, facts: dict[str, Any], judges: Judges
) -> Report:
    from sarguard.evaluation.judges.agreement import measure_agreement
    from sarguard.evaluation.judges.rules import RuleJudge
    from sarguard.evaluation.report import Report, spread_doses
    from sarguard.evaluation.stats.findings import find_remarks
    from sarguard.evaluation.stats.judge_comparison import compare_judges
    from sarguard.evaluation.stats.summary import summarise

    records = run.log.records
    summary = summarise(records)
    rules = isinstance(judges.first, RuleJudge)
    second = judges.second
    return Report(
        facts=facts,
        summary=summary,
        findings=find_remarks(summary, records),
        doses=spread_doses(records),
        separation=_separation(options, run),
        latency=_latency(options, run),
        agreement=measure_agreement(judges.first) if rules or options.out else None,
        second_judge=None
        if second is None
        else compare_judges(records, first=judges.first.name, second=second.name),
        gates=_gates(options, run),
        tiers=run.setup.bundle.card.tiers,
        policies=_policies(run.plan),
    )


def _separation(options: argparse.Namespace, run: Run) -> Separation | None:
    from sarguard.cli.screen import steps
    from sarguard.evaluation.run.separation import measure_separation

    if options.out is None:
        return None
    with steps("Reading states") as advance:
        return measure_separation(
            run.setup.loaded,
            run.setup.bundle.vectors.ablated,
            run.items,
            batch_size=options.batch_size,
            known=run.states,
            progress=advance,
        )


def _gates(options: argparse.Namespace, run: Run) -> tuple[GateTrial, ...]:
    from sarguard.cli.screen import steps
    from sarguard.evaluation.arms.gate_trials import try_gates

    if not options.forms:
        return ()
    with steps("Fitting gates") as advance:
        return try_gates(
            run.setup,
            run.items,
            batch_size=options.batch_size,
            known=run.states,
            progress=advance,
        )


def _latency(options: argparse.Namespace, run: Run) -> tuple[Latency, ...]:
    from sarguard.cli.screen import steps
    from sarguard.evaluation.run.latency import measure_latency

    if options.latency is None:
        return ()
    with steps(f"Timing {options.latency} requests") as advance:
        return measure_latency(
            run.setup,
            run.items,
            run.plan.timed,
            requests=options.latency,
            progress=advance,
        )


def _write(options: argparse.Namespace, report: Report) -> None:
    from sarguard.cli.screen import remarks, results
    from sarguard.evaluation.report import to_json, to_markdown, write_report
    from sarguard.evaluation.report.threats import fill_threats

    _print_report(remarks() if options.json == "-" else results(), report)
    if options.json == "-":
        sys.stdout.write(to_json(report))
    elif options.json is not None:
        Path(options.json).write_text(to_json(report), encoding="utf-8")
    if options.markdown is not None:
        Path(options.markdown).write_text(to_markdown(report), encoding="utf-8")
    if options.out is not None:
        write_report(report, Path(options.out))
    if options.publish is not None:
        write_report(report, Path(options.publish))
    if options.threats is not None:
        fill_threats(Path(options.threats), report)
    for folder in filter(None, (options.out, options.publish)):
        page = Path(folder) / "report.html"
        remarks().print(f"Report: {page}", markup=False, soft_wrap=True)


def _print_report(console: Console, report: Report) -> None:
    """Write the short tables, and what has to be said of them."""
    from rich.text import Text

    from sarguard.evaluation.report.tables import short_grids

    console.print(Text(str(report.facts["title"]), style="bold"))
    for grid in short_grids(report):
        _print(console, grid)
    for finding in report.findings:
        console.print(Text(finding.text, style="bold red" if finding.grave else "dim"))


def _print(console: Console, grid: Grid) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sarguard.cli.screen import print_table

    table = Table(
        title=Text(grid.title),
        title_style="bold",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for place, heading in enumerate(grid.headings):
        table.add_column(
            heading,
            justify="left" if place == 0 or heading == "arm" else "right",
            no_wrap=(place == 0 and heading != "figure") or heading == "arm",
        )
    for row in grid.rows:
        table.add_row(*map(str, row))
    print_table(console, table)
    console.print(Text(grid.note, style="dim"))
    console.print()
