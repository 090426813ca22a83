"""The tables of contexts, sampling, channels, attacks and named suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sarguard.evaluation.data.attacks import ATTACKS
from sarguard.evaluation.data.contexts import CONTEXTS
from sarguard.evaluation.report.grid import Grid, percent, ratio, whole
from sarguard.evaluation.stats.conditions import Condition, Table

TITLES: Mapping[Table, str] = MappingProxyType(
    {
        "context": "By context",
        "sampling": "By temperature and tries",
        "variant": "By channel",
        "attack": "By attack",
        "suite": "Suites of your own",
    }
)
_NOTES: Mapping[Table, str] = MappingProxyType(
    {
        "context": "What stands around the clip.",
        "sampling": "One try: the mean over tries. Best of n: a request counts as "
        "withheld only if each of its n tries was.",
        "variant": "How the clip sounds, or where it stands.",
        "attack": "What somebody does to have a harmful request answered.",
        "suite": "Clips of your own; all: unlabelled ones too.",
    }
)
_FIGURES = (
    "Withheld: blocked by the guard or refused by the model; blocked: the first alone. "
    "Ratio: to the same requests alone, asked once and greedily. Added: points, to the "
    "same."
)


def condition_grids(
    conditions: Sequence[Condition], *, noted: bool = True
) -> tuple[Grid, ...]:
    """Return a table of each kind of condition that a run has.

    Args:
        conditions: Of a whole run.
        noted: Whether a column says what each condition is.
    """
    tables = list(dict.fromkeys(condition.table for condition in conditions))
    return tuple(
        _grid(table, [c for c in conditions if c.table == table], noted)
        for table in tables
    )


def note_of(table: Table, name: str) -> str:
    """Return what a condition is, in a sentence; empty where its name says it."""
    known = {"context": CONTEXTS, "attack": ATTACKS}.get(table, {})
    found = known.get(name)
    return "" if found is None else found.note


def _grid(table: Table, conditions: Sequence[Condition], noted: bool) -> Grid:
    if table == "suite":
        return _suite_grid(conditions)
    noted = noted and any(note_of(table, c.name) for c in conditions)
    costs = any(c.harmless for c in conditions)
    shown = ("harmless withheld", "blocked", "added") if costs else ()
    asked = conditions[0]
    requests = f"{asked.harmful} harmful"
    if costs:
        requests += f" and {asked.harmless} harmless"
    return Grid(
        title=TITLES[table],
        note=f"{_NOTES[table]} {requests} requests. {_FIGURES}",
        headings=(
            *(TITLES[table].removeprefix("By "), "arm"),
            *("harmful withheld", "blocked", "ratio"),
            *shown,
            *(("what it is",) if noted else ()),
        ),
        rows=tuple(
            (
                *(c.name, c.arm, percent(c.harmful_withheld)),
                *(whole(c.harmful_blocked), ratio(c.ratio)),
                *(_costs(c) if costs else ()),
                *((note_of(table, c.name),) if noted else ()),
            )
            for c in conditions
        ),
    )


def _costs(condition: Condition) -> tuple[str, str, str]:
    return (
        percent(condition.harmless_withheld),
        whole(condition.harmless_blocked),
        percent(condition.added),
    )


def _suite_grid(conditions: Sequence[Condition]) -> Grid:
    return Grid(
        title=TITLES["suite"],
        note=f"{_NOTES['suite']} Withheld: blocked or refused.",
        headings=(
            *("suite", "arm", "harmful withheld", "harmless withheld"),
            "all withheld",
        ),
        rows=tuple(
            (
                *(c.name, c.arm, percent(c.harmful_withheld)),
                *(percent(c.harmless_withheld), percent(c.all_withheld)),
            )
            for c in conditions
        ),
    )
