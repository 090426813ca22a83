"""Choosing a bundle's tiers, and showing what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from sarguard.models.loading import LoadedModel
    from sarguard.steering.bundle import BundleCard, SteeringBundle
    from sarguard.steering.card_parts import TierMeasure


def choose_and_prove(
    loaded: LoadedModel, bundle: SteeringBundle, *, limit: int | None
) -> SteeringBundle:
    """Return a bundle with tiers chosen on validation and measured on the test."""
    from dataclasses import replace

    from sarguard.cli.screen import steps
    from sarguard.evaluation.arms.registry import Setup
    from sarguard.evaluation.data.suites import load_suites
    from sarguard.evaluation.tier_search import choose_tiers, prove_tiers

    setup = Setup(loaded=loaded, bundle=bundle)
    items = load_suites(split="validation", limit=limit)
    with steps(f"Choosing tiers on {len(items)} requests") as advance:
        chosen = choose_tiers(setup, items, progress=advance)
    held = load_suites(split="test", limit=limit)
    with steps(f"Measuring tiers on {len(held)} requests") as advance:
        return prove_tiers(replace(setup, bundle=chosen), held, progress=advance)


def print_tiers(console: Console, card: BundleCard) -> None:
    """Write every tier's rule and what it did."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text("Tiers"), title_style="bold", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in (
        *("tier", "strength", "block at", "split", "harmful refused"),
        *("safe added", "borderline added", "ordinary added", "broken added"),
    ):
        table.add_column(heading, justify="left" if heading == "tier" else "right")
    for name, tier in card.tiers.items():
        if tier.choice is None:
            continue
        strength = f"{tier.floor:g} to {tier.ceiling:g}"
        block = "never" if tier.block is None else f"{tier.block:.2f}"
        table.add_row(name, strength, block, *_cells("chosen", tier.choice.validation))
        if tier.choice.test is not None:
            table.add_row("", "", "", *_cells("test", tier.choice.test))
    console.print(table)
    unmet = [n for n, t in card.tiers.items() if t.choice and not t.choice.met]
    if unmet:
        console.print(
            Text(
                f"{', '.join(unmet)}: no rule met the aim under the caps of "
                "harmless refusals; the nearest one was taken.",
                style="yellow",
            )
        )


def _cells(split: str, found: TierMeasure) -> tuple[str, ...]:
    added = (
        found.safe_added,
        found.borderline_added,
        found.ordinary_added,
        found.broken_added,
    )
    return (
        split,
        f"{found.harmful_refused:.0%}",
        *("-" if share is None else f"{100 * share:+.1f}" for share in added),
    )
