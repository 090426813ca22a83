"""`sarguard models`: the guarded families, their limits, and how they were tested."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sarguard.cli.screen import print_json, print_table, results

if TYPE_CHECKING:
    from sarguard.cli.options import Commands
    from sarguard.models.families import Family


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "models",
        help="say which model families are guarded, and their limits",
        description="List the families of audio-language models, the limits that "
        "callers are held to, what their processors need, and what was tested. No "
        "weights above those of the reference model were run.",
    )
    parser.add_argument("--json", action="store_true", help="write the table as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the table."""
    from sarguard.models.families import FAMILIES, UNSUPPORTED

    rows = [describe(kind, family) for kind, family in FAMILIES.items()]
    if options.json:
        print_json({"families": rows, "refused": UNSUPPORTED})
    else:
        _print(rows, UNSUPPORTED)
    return 0


def describe(kind: str, family: Family) -> dict[str, Any]:
    """Return a family's row, under the keys of the JSON output."""
    return {
        "family": family.name,
        "model_type": kind,
        "architecture": family.architecture,
        "seconds_per_clip": family.max_seconds,
        "clips_per_prompt": 1 if family.single_audio else None,
        "batch": "equal clips" if family.equal_lengths else "any clips",
        "clips_heard": "once" if family.splices_clips else "each prompt",
        "needs": list(family.needs),
        "tested_with": family.evidence.value,
        "note": family.note,
    }


def _print(rows: list[dict[str, Any]], refused: dict[str, str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    console = results()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in (
        *("family", "a clip", "a prompt", "a batch", "heard", "needs", "tested"),
    ):
        table.add_column(heading, no_wrap=heading == "family")
    # What a family was tested with is a sentence: the table refers to it by number.
    evidence = dict.fromkeys(row["tested_with"] for row in rows)
    numbers = {text: number for number, text in enumerate(evidence, start=1)}
    for row in rows:
        table.add_row(
            row["family"],
            _seconds(row["seconds_per_clip"]),
            "1 clip" if row["clips_per_prompt"] else "any",
            row["batch"],
            row["clips_heard"],
            ", ".join(row["needs"]),
            f"[{numbers[row['tested_with']]}]",
        )
    print_table(console, table)
    for text, number in numbers.items():
        console.print(Text(f"[{number}] {text}", style="dim"))
    console.print(Text("its window: what the processor hears, often 30 s", style="dim"))
    for reason in refused.values():
        console.print(Text(f"refused: {reason}", style="yellow"))


def _seconds(seconds: float | None) -> str:
    return "its window" if seconds is None else f"{seconds:g} s"
