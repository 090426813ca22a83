"""`sarguard bench`: what the guard costs and saves on this machine, as ratios."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sarguard.cli.options import add_model_options, positive_int

if TYPE_CHECKING:
    from sarguard.bench.rows import Row
    from sarguard.cli.options import Commands

_PARTS = (
    "decoding",
    "callers",
    "conversation",
    "calibration",
    "memory",
    "import",
    "gpu",
)
_MIN_TOKENS = 3
_MIN_PAIRS = 12


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure what the guard costs and saves, as ratios",
        description="Compare guarded arms with bare ones, and ours with the authors', "
        "in turn within one run. Half an hour on two cores with the reference model; "
        "do it on a quiet machine.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        default="reference",
        help="checkpoint directory or hub id (default: the reference model)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="rough figures, to see that it all runs"
    )
    parser.add_argument(
        "--parts",
        type=_parts,
        default=_PARTS,
        metavar="A,B",
        help=f"what to measure (default: {','.join(_PARTS)})",
    )
    parser.add_argument("--tokens", type=_tokens, metavar="N", help="of each answer")
    parser.add_argument(
        "--repeats", type=positive_int, metavar="N", help="pairs of measurements"
    )
    parser.add_argument(
        "--pairs", type=_pairs, metavar="N", help="that calibration reads"
    )
    parser.add_argument("--json", action="store_true", help="write the rows as JSON")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, and write the table."""
    from sarguard.cli.load import open_model
    from sarguard.cli.screen import print_json, steps

    loaded = open_model(options)
    from sarguard.bench.rows import describe_machine
    from sarguard.bench.suite import QUICK, Effort, run_bench

    given = {
        name: value
        for name in ("tokens", "repeats", "pairs")
        if (value := getattr(options, name)) is not None
    }
    effort = replace(QUICK if options.quick else Effort(), **given)
    machine = describe_machine()
    machine |= {"device": str(loaded.device), "dtype": str(loaded.dtype)}
    with steps("Measuring") as advance:
        rows = run_bench(loaded, effort=effort, parts=options.parts, progress=advance)
    if options.json:
        print_json({"machine": machine, "rows": [row.to_dict() for row in rows]})
    else:
        _print(rows, machine)
    return 0


def _print(rows: Sequence[Row], machine: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sarguard.cli.screen import print_table, results

    console = results()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("what", "on", "median", "quartiles", "bar", "", "arms"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*_cells(row))
    print_table(console, table)
    console.print(Text("Machine: " + ", ".join(_machine_words(machine)), style="dim"))


def _cells(row: Row) -> tuple[str, ...]:
    from sarguard.bench.rows import Skipped

    if isinstance(row, Skipped):
        return row.what, row.on, "skipped", "", str(row.bar), "", row.reason
    spread = row.quartiles
    between = "" if spread is None else f"{spread[0]:.3g} to {spread[1]:.3g}"
    verdict = "met" if row.met else "missed"
    median = f"{row.median:.4g}"
    return row.what, row.on, median, between, str(row.bar), verdict, row.arms


def _machine_words(machine: dict[str, Any]) -> list[str]:
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    load = machine["load_average"]
    return [
        f"{machine['processor']}, {machine['cpus']} CPUs",
        gpus,
        *([] if load is None else [f"load {load:.1f} before"]),
        machine["system"],
        f"Python {machine['python']}",
        f"torch {machine['torch']} with {machine['torch_threads']} threads",
        f"transformers {machine['transformers']}",
        f"{machine['dtype']} on {machine['device']}",
    ]


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(","))
    unknown = [part for part in chosen if part not in _PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no part {unknown[0]!r}: choose from {', '.join(_PARTS)}"
        )
    return chosen


def _tokens(text: str) -> int:
    return _at_least(_MIN_TOKENS, text)


def _pairs(text: str) -> int:
    return _at_least(_MIN_PAIRS, text)


def _at_least(minimum: int, text: str) -> int:
    value = positive_int(text)
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{text}: give {minimum} or more")
    return value
