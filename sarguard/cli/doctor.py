"""`sarguard doctor`: what is installed, cached and usable, and how to fix the rest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sarguard.cli.checks.finding import Finding, State

if TYPE_CHECKING:
    from sarguard.cli.options import Commands

_UNUSABLE = 1
_MARKS = {State.OK: "ok", State.NOTE: "note", State.PROBLEM: "PROBLEM"}
_STYLES = {State.OK: "green", State.NOTE: "yellow", State.PROBLEM: "bold red"}


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="say what is missing, and how to fix it",
        description="Look at Python, packages, devices, the cache, the reference "
        "model and its bundle, and steer a tiny random model. Exits with 1 if "
        "something required cannot be used, or steering does not work.",
    )
    parser.add_argument(
        "--online", action="store_true", help="also ask pip's package index"
    )
    parser.add_argument("--json", action="store_true", help="write findings as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look at everything, and write what was found."""
    found = list(examine(online=options.online))
    if options.json:
        usable = not _problems(found)
        content = {"usable": usable, "findings": [f.to_dict() for f in found]}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    else:
        write_report(found)
    return _UNUSABLE if _problems(found) else 0


def examine(*, online: bool) -> Iterator[Finding]:
    """Yield the findings, the cheap ones first."""
    from sarguard.cli.checks import machine, packages, reference, steering

    yield packages.check_python()
    yield machine.check_platform()
    yield from packages.check_packages()
    yield from machine.check_devices()
    yield steering.check_steering()
    yield from reference.check_cache()
    yield reference.check_bundle()
    yield from machine.check_programs()
    if online:
        yield reference.check_index()


def write_report(found: Sequence[Finding]) -> None:
    """Write the findings, in colour where rich is installed."""
    try:
        from sarguard.cli.screen import results
    except ImportError:  # a report has to come, whatever is missing
        _write_plainly(found)
        return
    from rich.text import Text

    console = results()
    width = max(len(finding.name) for finding in found)
    for finding in found:
        console.print(
            Text.assemble(
                (f"{_MARKS[finding.state]:<8}", _STYLES[finding.state]),
                (f"{finding.name:<{width}}  ", "bold"),
                finding.found,
            )
        )
        if finding.fix:
            console.print(Text(f"{'':8}-> {finding.fix}", style="cyan"))
    console.print()
    console.print(Text(_verdict(found), style="bold"))


def _write_plainly(found: Sequence[Finding]) -> None:
    for finding in found:
        fix = f" -> {finding.fix}" if finding.fix else ""
        mark = _MARKS[finding.state]
        sys.stdout.write(f"{mark:<8}{finding.name}: {finding.found}{fix}\n")
    sys.stdout.write(f"\n{_verdict(found)}\n")


def _verdict(found: Sequence[Finding]) -> str:
    problems = _problems(found)
    if not problems:
        return "Ready. Try: sarguard demo"
    return f"{len(problems)} problem(s): {', '.join(f.name for f in problems)}"


def _problems(found: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.state is State.PROBLEM]
