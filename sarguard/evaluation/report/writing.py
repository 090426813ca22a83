"""Writing a report into a directory."""

from __future__ import annotations

import json
from pathlib import Path

from sarguard.evaluation.report.charts import drawable, trade_off
from sarguard.evaluation.report.content import Report
from sarguard.evaluation.report.markdown import to_markdown
from sarguard.evaluation.report.page import to_html
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
