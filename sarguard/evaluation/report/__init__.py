"""The report of a run: one self-contained page, Markdown and JSON."""

from __future__ import annotations

from sarguard.evaluation.report.content import DoseSpread, Report, spread_doses
from sarguard.evaluation.report.files import to_json, to_markdown, write_report
from sarguard.evaluation.report.page import to_html

__all__ = [
    "DoseSpread",
    "Report",
    "spread_doses",
    "to_html",
    "to_json",
    "to_markdown",
    "write_report",
]
