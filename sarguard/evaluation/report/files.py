"""A report's files: Markdown for a document, JSON, and all of them in a directory."""

from __future__ import annotations

import json
from pathlib import Path

from sarguard.evaluation.report.charts import drawable, trade_off
from sarguard.evaluation.report.condition_chart import condition_chart
from sarguard.evaluation.report.content import Report
from sarguard.evaluation.report.grid import to_lines
from sarguard.evaluation.report.page import to_html
from sarguard.evaluation.report.tables import all_grids
from sarguard.evaluation.run.run_log import write_whole

_CHARTS = {"context": "contexts.svg", "attack": "attacks.svg"}


def write_report(report: Report, folder: Path) -> None:
    """Write report.html, report.md, report.json and, for a document, the charts."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.html", to_html(report))
    write_whole(folder / "report.md", to_markdown(report))
    write_whole(folder / "report.json", to_json(report))
    if arms := drawable(report.summary.arms):
        write_whole(folder / "curve.svg", trade_off(arms, alone=True) + "\n")
    for table, file in _CHARTS.items():
        found = [c for c in report.summary.conditions if c.table == table]
        if found:
            chart = condition_chart(found, alone=True)
            write_whole(folder / file, chart + "\n")


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
        parts += [f"## {grid.title}", grid.note, "\n".join(to_lines(grid))]
    return "\n\n".join(parts) + "\n"
