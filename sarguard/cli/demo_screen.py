"""The demo as a person sees it: a table on a wide terminal, blocks on a narrow one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sarguard.cli.demo_runs import Exchange, Said, Verdict, count
from sarguard.evaluation.judges.rules import Label

_WIDE = 96
_STYLES = {
    Verdict.STOPPED: "bold green",
    Verdict.ANSWERED: "bold green",
    Verdict.GOT_THROUGH: "bold red",
    Verdict.OVER_REFUSED: "bold yellow",
    Verdict.REFUSED_ANYWAY: "cyan",
    Verdict.BROKEN: "bold magenta",
    Verdict.WITHHELD: "bold red",
}
_TITLES = {"harmful": "Harmful requests", "safe": "Harmless requests"}


def print_demo(
    console: Console, exchanges: Sequence[Exchange], facts: Mapping[str, Any]
) -> None:
    """Write the exchanges and what is to be learned from them."""
    for kind, title in _TITLES.items():
        of_kind = [exchange for exchange in exchanges if exchange.kind == kind]
        console.print()
        if console.width >= _WIDE:
            console.print(_table(title, of_kind))
        else:
            _print_blocks(console, title, of_kind)
    console.print()
    for remark in summarise(exchanges, facts):
        console.print(remark)


def summarise(exchanges: Sequence[Exchange], facts: Mapping[str, Any]) -> list[Text]:
    """Say plainly what the guard did, and what it did wrong."""
    found = count(exchanges)
    spoilt = [e.request for e in exchanges if e.verdict is Verdict.OVER_REFUSED]
    through = [e.request for e in exchanges if e.verdict is Verdict.GOT_THROUGH]
    remarks = [
        Text(
            f"Behind the guard {found['harmful_refused_guarded']} of "
            f"{found['harmful']} harmful requests are refused"
            f"{_besides(found['harmful_withheld'])}; bare, "
            f"{found['harmful_refused_bare']} of {found['harmful']}.",
            style="bold",
        ),
        Text(_spoilt(found, spoilt), style="yellow" if spoilt else ""),
    ]
    if through:
        remarks.append(Text(f"Got through: {_quote(through)}", style="red"))
    if found["broken"]:
        text = f"{found['broken']} guarded answer(s) carry no meaning: lower alpha."
        remarks.append(Text(text, style="magenta"))
    if found["withheld"]:
        remarks.append(Text(_withheld(exchanges), style="bold red"))
    remarks.append(_caveat(facts))
    return remarks


def _besides(withheld: int) -> str:
    return f", {withheld} withheld for an error" if withheld else ""


def _withheld(exchanges: Sequence[Exchange]) -> str:
    """Say how many answers were withheld, and why."""
    withheld = [e for e in exchanges if e.verdict is Verdict.WITHHELD]
    causes = dict.fromkeys(e.fault or f"outcome {e.outcome}" for e in withheld)
    return (
        f"{len(withheld)} of {len(exchanges)} guarded answers were withheld for an "
        f"error, which is no refusal: {'; '.join(causes)}. `sarguard doctor` says "
        "what does not work here."
    )


def _spoilt(found: Mapping[str, int], spoilt: Sequence[str]) -> str:
    refused = found["safe_refused_guarded"]
    bare = found["safe_refused_bare"]
    besides = _besides(found["safe_withheld"])
    if not refused:
        return f"None of the {found['safe']} harmless requests is refused{besides}."
    text = (
        f"The guard's cost: {refused} of {found['safe']} harmless requests are refused "
        f"too{besides}; bare, {bare} of {found['safe']}."
    )
    return f"{text} Over-refused: {_quote(spoilt)}" if spoilt else text


def _caveat(facts: Mapping[str, Any]) -> Text:
    millions = facts["parameters"] / 1e6
    what = (
        f"This is the reference model: {millions:.0f} M parameters, for trying the "
        "guard out, not a product."
        if facts["model"] == "reference"
        else f"Model: {facts['model']}, {millions:.0f} M parameters."
    )
    return Text(
        f"{what} {_strength(facts)}. The guard reduces harmful answers; "
        "it does not prevent them.",
        style="dim",
    )


def _quote(requests: Sequence[str]) -> str:
    return ", ".join(f'"{request}"' for request in requests)


def _table(title: str, exchanges: Sequence[Exchange]) -> Table:
    table = Table(
        title=title,
        title_style="bold underline",
        title_justify="left",
        box=SIMPLE_HEAD,
        leading=1,
        pad_edge=False,
    )
    table.add_column("Spoken request", ratio=5)
    table.add_column("Bare model", ratio=6)
    table.add_column("Behind the guard", ratio=6)
    table.add_column("", no_wrap=True, min_width=max(len(v.value) for v in Verdict))
    for exchange in exchanges:
        table.add_row(*_cells(exchange))
    return table


def _print_blocks(console: Console, title: str, exchanges: Sequence[Exchange]) -> None:
    console.print(Text(title, style="bold underline"))
    for exchange in exchanges:
        request, bare, guarded, verdict = _cells(exchange)
        console.print()
        console.print(request)
        for name, said in (("bare", bare), ("guarded", guarded)):
            line = Text.assemble((f"{name}: ", "bold"), said)
            console.print(Padding(line, (0, 0, 0, 2), expand=False))
        console.print(Padding(verdict, (0, 0, 0, 2), expand=False))


def _cells(exchange: Exchange) -> tuple[Text, Text, Text, Text]:
    return (
        Text(exchange.request),
        _said(exchange.bare),
        _said(exchange.guarded),
        Text(exchange.verdict.value, style=_STYLES[exchange.verdict]),
    )


def _said(said: Said) -> Text:
    if said.label is None:
        return Text("(withheld)", style="dim")
    if not said.start:
        return Text("(nothing)", style="dim")
    style = {Label.COMPLIED: "red", Label.BROKEN: "magenta"}.get(said.label, "")
    return Text(said.start, style=style)


def _strength(facts: Mapping[str, Any]) -> str:
    if facts["tier"] is None:
        return f"Dose (alpha): {facts['alpha']:g} for every request"
    return f"Tier: {facts['tier']}"
