"""A report as one page that loads nothing: styles and charts are inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sarguard.evaluation.arms.arm import BARE, Arm
from sarguard.evaluation.report import charts
from sarguard.evaluation.report.condition_chart import KEY, condition_chart
from sarguard.evaluation.report.condition_tables import TITLES
from sarguard.evaluation.report.content import Report
from sarguard.evaluation.report.grid import MISSED, Cell, Grid
from sarguard.evaluation.report.tables import all_grids
from sarguard.evaluation.stats.conditions import Condition

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: #1f2933;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0 0 6px; }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px;
  padding: 20px 24px; margin-top: 20px; }
p.note, p.legend { color: #52606d; margin: 0 0 12px; font-size: 13.5px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px;
  margin: 12px 0 0; font-size: 13.5px; }
dt { color: #52606d; } dd { margin: 0; overflow-wrap: anywhere; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: #52606d; vertical-align: bottom;
  border-bottom: 2px solid #cbd2d9; padding: 6px 8px; }
td { text-align: right; padding: 5px 8px; border-bottom: 1px solid #e4e7eb;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th.name, td.name { text-align: left; }
td.missed { color: #a61b1b; font-weight: 700; }
td small { color: #7b8794; }
td i, p.legend i { display: inline-block; width: 10px; height: 10px;
  border-radius: 3px; margin-right: 7px; }
p.legend span { margin-right: 18px; white-space: nowrap; }
ul.remarks { margin: 0; padding-left: 20px; } ul.remarks li { margin: 4px 0; }
li.grave { font-weight: 700; color: #a61b1b; }
svg { width: 100%; max-width: 760px; height: auto; display: block; }
code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; }
"""


def to_html(report: Report) -> str:
    """Return the report as a page."""
    title = escape(str(report.facts.get("title", "Evaluation")))
    body = "".join(
        (
            f"<h1>{title}</h1>",
            _facts(report.facts),
            _remarks(report),
            _trade_off(report),
            _grids(report),
            _separation(report),
            _doses(report),
            _latency(report),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    rows = (
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{_fact(name, value)}</dd>"
        for name, value in facts.items()
        if name != "title" and value not in ("", None)
    )
    return f"<dl>{''.join(rows)}</dl>"


def _fact(name: str, value: object) -> str:
    said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"<code>{escape(said)}</code>" if name == "command" else escape(said)


def _remarks(report: Report) -> str:
    rows = "".join(
        f'<li class="{"grave" if finding.grave else ""}">{escape(finding.text)}</li>'
        for finding in report.findings
    )
    if not rows:
        return ""
    return _section("Read this first", "", f'<ul class="remarks">{rows}</ul>')


def _trade_off(report: Report) -> str:
    arms = charts.drawable(report.summary.arms)
    if not arms:
        return ""
    names = [charts.family_of(arm.arm.name) for arm in arms]
    legend = charts.legend(list(dict.fromkeys(names)))
    return _section(
        "Harmful against harmless requests refused",
        "The upper left corner refuses what is harmful and nothing else. Numbers are "
        "doses; faint lines are 95 % intervals. Harmless: every harmless suite of the "
        "run.",
        legend + charts.trade_off(arms),
    )


def _grids(report: Report) -> str:
    drawn = _drawn(report.summary.conditions)
    return "".join(
        _section(grid.title, grid.note, drawn.get(grid.title, "") + _table(grid))
        for grid in all_grids(report)
    )


def _drawn(conditions: Sequence[Condition]) -> dict[str, str]:
    """Return the charts that stand above tables, by the table's title."""
    found: dict[str, str] = {}
    for table in dict.fromkeys(c.table for c in conditions):
        chart = condition_chart([c for c in conditions if c.table == table])
        found[TITLES[table]] = charts.coloured(KEY) + chart
    return found


def _separation(report: Report) -> str:
    found = report.separation
    if found is None:
        return ""
    legend = charts.coloured(
        {
            "along the refusal vector": charts.PALETTE["ablated"],
            "by a linear probe, cross-validated over pairs": charts.PALETTE["tier"],
        }
    )
    return _section(
        "How far apart harmful and harmless requests stand, layer by layer",
        f"{found.harmful} harmful requests and {found.safe} matched safe ones, clean "
        "state at the last prompt token. 0.5 is chance.",
        legend + charts.separation_chart(found),
    )


def _doses(report: Report) -> str:
    if not report.doses:
        return ""
    suites = list(dict.fromkeys(s for d in report.doses for s in d.counts))
    parts = [charts.suite_legend(suites)]
    for spread in report.doses:
        blocked = ", ".join(f"{n} {suite}" for suite, n in spread.blocked.items() if n)
        note = f"{escape(str(spread.arm))}: blocked {escape(blocked) or 'none'}"
        parts.append(f'<p class="note">{note}</p>{charts.dose_chart(spread)}')
    return _section("Doses", "Arms whose dose depends on the request.", "".join(parts))


def _latency(report: Report) -> str:
    if not any(row.first_token_ratio and row.arm != BARE for row in report.latency):
        return ""
    return _section(
        "Cost in time, against the bare model",
        "Medians of ratios, arms taking turns within each request.",
        charts.latency_chart(report.latency),
    )


def _table(grid: Grid) -> str:
    head = "".join(f"<th{_name(h)}>{escape(h)}</th>" for h in grid.headings)
    rows = "".join(f"<tr>{_cells(grid.headings, row)}</tr>" for row in grid.rows)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(headings: Sequence[str], row: Sequence[Cell]) -> str:
    return "".join(_cell(h, c) for h, c in zip(headings, row, strict=True))


def _cell(heading: str, content: Cell) -> str:
    if isinstance(content, Arm):
        colour = charts.colour_of(content.name)
        shown = f'<i style="background:{colour}"></i>{escape(str(content))}'
    else:
        value, bracket, interval = content.partition(" [")
        shown = escape(value)
        if bracket:
            shown += f" <small>[{escape(interval)}</small>"
    marked = ' class="missed"' if content == MISSED else _name(heading)
    return f"<td{marked}>{shown}</td>"


def _name(heading: str) -> str:
    return ' class="name"' if heading in ("arm", "what it is") else ""


def _section(title: str, note: str, content: str) -> str:
    noted = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{noted}{content}</section>"
