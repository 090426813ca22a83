"""A report's files: Markdown for a document, JSON, and all of them in a directory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sarguard.evaluation.report.charts import drawable, trade_off
from sarguard.evaluation.report.content import Report
from sarguard.evaluation.report.page import to_html
from sarguard.evaluation.report.tables import Cell, Grid, all_grids
from sarguard.evaluation.run.run_log import write_whole


def write_report(report: Report, folder: Path) -> None:
    """Write report.html, report.md, report.json and, for a document, curve.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.html", to_html(report))
    write_whole(folder / "report.md", to_markdown(report))
    write_whole(folder / "report.json", to_json(report))
    if arms := drawable(report.summary.arms):
        write_whole(folder / "curve.svg", trade_off(arms, alone=True) + "\n")


def to_json(report: Report) -> str:
    """Return the report as JSON."""
    return json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n"


def to_markdown(report: Report) -> str:
    """Return the report's facts, remarks and tables as Markdown."""
    parts = [f"# {report.facts.get('title', 'Evaluation')}"]
    if command := report.facts.get("command"):
        parts.append(f"    {command}")
    remarks = [
        f"* **{finding.text}**" if finding.grave else f"* {finding.text}"
        for finding in report.findings
    ]
    if remarks:
        parts.append("\n".join(remarks))
    for grid in all_grids(report):
        parts += [f"## {grid.title}", grid.note, _render(grid)]
    return "\n\n".join(parts) + "\n"


def _render(grid: Grid) -> str:
    lines = [_line(grid.headings), _line("---" for _ in grid.headings)]
    return "\n".join([*lines, *map(_line, grid.rows)])


def _line(cells: Iterable[Cell]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
