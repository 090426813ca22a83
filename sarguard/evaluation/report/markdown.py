"""A report as Markdown, for a document."""

from __future__ import annotations

from collections.abc import Iterable

from sarguard.evaluation.report.content import Report
from sarguard.evaluation.report.tables import Cell, Grid, all_grids


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
        parts += [f"## {grid.title}", grid.note, render(grid)]
    return "\n\n".join(parts) + "\n"


def render(grid: Grid) -> str:
    """Return one table as Markdown."""
    lines = [_line(grid.headings), _line("---" for _ in grid.headings)]
    return "\n".join([*lines, *map(_line, grid.rows)])


def _line(cells: Iterable[Cell]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
