"""`sarguard calibrate MODEL -o bundle/`: make a model's steering bundle."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.cli.options import (
    add_model_options,
    fraction,
    positive_float,
    positive_int,
)
from sarguard.cli.screen import print_json, print_table, remarks, results, steps
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from sarguard.cli.options import Commands
    from sarguard.models.loading import LoadedModel
    from sarguard.steering.bundle import BundleCard, SteeringBundle, TierMeasure

_MAX_ROWS = 12


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "calibrate",
        help="make the steering bundle of a model",
        description="Compute a model's safe-ablated refusal vectors from matched "
        "harmful and harmless clips, and write them with their provenance.",
    )
    parser.add_argument("model", help='checkpoint directory, hub id, or "reference"')
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="where the bundle goes"
    )
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help='JSONL manifest, a line {"harmful": "a.wav", "safe": "b.wav"} a pair '
        "(default: the pairs that ship)",
    )
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="most pairs to use"
    )
    parser.add_argument("--instruction", help="text that goes with every clip")
    parser.add_argument("--refusal", help="refusal sentence the vectors derive from")
    parser.add_argument(
        "--rank",
        type=positive_int,
        default=10,
        metavar="K",
        help="safe directions that are removed (default: 10)",
    )
    parser.add_argument(
        "--lambda",
        dest="lam",
        type=fraction,
        default=1.0,
        metavar="L",
        help="how much of them is removed, 0 to 1 (default: 1)",
    )
    parser.add_argument(
        "--alpha",
        type=positive_float,
        default=0.1,
        help="dose to keep in the bundle (default: 0.1)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=8,
        metavar="N",
        help="most clips that are read together (default: 8)",
    )
    parser.add_argument(
        "--choose-tiers",
        action="store_true",
        help="choose the tiers on the spoken validation requests that ship, measure "
        "them on the test requests, and keep the figures in the bundle (minutes)",
    )
    parser.add_argument(
        "--allow-no-refusal",
        action="store_true",
        help="write a bundle even if the model shows no refusal to extract",
    )
    parser.add_argument("--json", action="store_true", help="write the card as JSON")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Calibrate, save, and show what came out."""
    from sarguard.calibration.journal import discard
    from sarguard.cli.load import open_model

    # What is wrong with the files is found before the model is loaded.
    _check_output(options.output)
    if options.pairs is not None:
        from sarguard.datasets import read_user_manifest

        read_user_manifest(options.pairs)
    loaded = open_model(options)
    journal = _journal(options.output)
    try:
        bundle = _calibrate(options, loaded, journal)
        if options.choose_tiers:
            bundle = _choose_tiers(loaded, bundle, limit=options.limit)
    except KeyboardInterrupt:
        remarks().print(
            f"What was read is kept in {journal}: the same command goes on from there.",
            markup=False,
            soft_wrap=True,
        )
        raise
    saved = bundle.save(options.output)
    discard(journal)
    if options.json:
        card = bundle.card.model_dump()
        print_json({"directory": str(saved), "digest": bundle.digest, "card": card})
    else:
        _print_summary(results(), bundle.card, saved)
    return 0


def _check_output(output: str) -> None:
    path = Path(output)
    if path.is_file():
        raise ConfigurationError(
            f"{output} is a file: give a directory for the bundle with -o"
        )
    if path.is_dir() and any(path.iterdir()) and not (path / "card.json").is_file():
        raise ConfigurationError(
            f"{output} is a directory with something else in it: give one that does "
            "not exist, or that holds a bundle to replace"
        )


def _journal(output: str) -> Path:
    """Return where what was read is kept, beside the bundle and never in it."""
    path = Path(output).absolute()
    return path.with_name(f".{path.name}.reading")


def _calibrate(
    options: argparse.Namespace, loaded: LoadedModel, journal: Path
) -> SteeringBundle:
    from sarguard.calibration.build import calibrate
    from sarguard.calibration.recipe import Recipe
    from sarguard.datasets import load_benign, load_pairs, load_user_pairs

    rate, limit = loaded.sampling_rate, options.limit
    benign: list[np.ndarray] = []
    if options.pairs is not None:
        pairs = load_user_pairs(options.pairs, sample_rate=rate, limit=limit)
    else:
        pairs = load_pairs("calibration", sample_rate=rate, limit=limit)
        benign = load_benign(sample_rate=rate, limit=limit)
    texts = {
        name: value
        for name in ("instruction", "refusal")
        if (value := getattr(options, name)) is not None
    }
    with steps(f"Calibrating on {len(pairs)} pairs") as advance:
        return calibrate(
            loaded,
            pairs,
            Recipe(rank=options.rank, lam=options.lam, **texts),
            benign=benign,
            alpha=options.alpha,
            batch_size=options.batch_size,
            needs_refusal=not options.allow_no_refusal,
            progress=lambda done, total: advance(done, total, ""),
            journal=journal,
        )


def _choose_tiers(
    loaded: LoadedModel, bundle: SteeringBundle, *, limit: int | None
) -> SteeringBundle:
    """Return a bundle with tiers chosen on validation and measured on the test."""
    from sarguard.evaluation.arms.registry import Setup
    from sarguard.evaluation.data.suites import load_suites
    from sarguard.evaluation.tier_search import choose_tiers, prove_tiers

    setup = Setup(loaded=loaded, bundle=bundle)
    items = load_suites(split="validation", limit=limit)
    with steps(f"Choosing tiers on {len(items)} requests") as advance:
        chosen = choose_tiers(setup, items, progress=advance)
    held_out = load_suites(split="test", limit=limit)
    with steps(f"Measuring tiers on {len(held_out)} requests") as advance:
        return prove_tiers(replace(setup, bundle=chosen), held_out, progress=advance)


def _print_summary(console: Console, card: BundleCard, saved: Path) -> None:
    """Write what the vectors look like, layer by layer, and what to do next."""
    from rich.text import Text

    from sarguard.calibration.tiers import TRUSTED_AUC

    print_table(console, _layer_table(card))
    console.print(
        Text(
            f"cosine: of raw and ablated vector. safe variance removed: share of the "
            f"harmless states' variance in the {card.rank} removed directions.",
            style="dim",
        )
    )
    console.print(
        Text(
            f"The gate tells {card.gate.twins_told_apart:.0%} of pairs it was not "
            f"fitted on apart (chance: 50 %; AUC {card.gate.auc:.2f})."
        )
    )
    if (check := card.refusal_check) is not None:
        twins = ""
        if check.harmless is not None:
            twins = f" ({check.harmless:.2f} after their harmless twins)"
        console.print(
            Text(
                f"After {check.clips} harmful clips the refusal sentence has "
                f"{check.bare:.2f} nats per token{twins}; steering takes it to "
                f"{check.steered:.2f}, a random push to {check.random:.2f}."
            )
        )
    if card.gate.auc < TRUSTED_AUC:
        console.print(
            Text(
                f"That is below an AUC of {TRUSTED_AUC}: the gate is not asked, and "
                "every tier gives a constant dose."
            )
        )
    if any(tier.block is not None for tier in card.tiers.values()):
        print_table(console, _context_table(card))
    chosen = {name: t.choice for name, t in card.tiers.items() if t.choice}
    if chosen:
        print_table(console, _tier_table(card))
    unmet = [name for name, choice in chosen.items() if not choice.met]
    if unmet:
        console.print(
            Text(
                f"{', '.join(unmet)}: no rule met the aim under the caps of "
                "harmless refusals; the nearest one was taken.",
                style="yellow",
            )
        )
    # A path or a command that is to be copied must not be wrapped.
    console.print(Text(f"Saved in {saved}. Try it:"), soft_wrap=True)
    console.print(
        Text(f"  sarguard ask clip.wav --model {card.model_name} --bundle {saved}"),
        soft_wrap=True,
    )


def _layer_table(card: BundleCard) -> Table:
    """Return a table of all layers, or of a dozen from the first to the last."""
    headings = ("layer", "raw norm", "ablated norm", "state norm", "cosine")
    table = _table(
        f"{card.model_name}: {card.pairs} pairs, rank {card.rank}",
        *headings,
        "safe variance removed",
    )
    shown = min(card.layers, _MAX_ROWS)
    step = (card.layers - 1) / max(shown - 1, 1)
    for layer in (round(step * row) for row in range(shown)):
        table.add_row(
            str(layer),
            f"{card.raw_norms[layer]:.2f}",
            f"{card.norms[layer]:.2f}",
            f"{card.state_norms[layer]:.2f}",
            f"{card.cosine[layer]:.3f}",
            f"{sum(card.explained_variance[layer]):.0%}",
        )
    return table


def _context_table(card: BundleCard) -> Table:
    """Return a table of what each tier's block withholds, context by context."""
    table = _table(
        "Blocked by context, harmful / harmless (out of fold)", "context", *card.tiers
    )
    table.columns[0].justify = "left"
    for name, context in card.gate.contexts.items():
        shares = [context.withheld(tier.block) for tier in card.tiers.values()]
        cells = (f"{harmful:.0%} / {safe:.0%}" for harmful, safe in shares)
        table.add_row(name, *cells)
    return table


def _tier_table(card: BundleCard) -> Table:
    """Return a table of every tier's rule and what it did."""
    headings = ("tier", "strength", "block at", "split", "harmful refused")
    added = ("safe added", "borderline added", "ordinary added", "broken added")
    table = _table("Tiers", *headings, *added)
    table.columns[0].justify = "left"
    for name, tier in card.tiers.items():
        if tier.choice is None:
            continue
        strength = f"{tier.floor:g} to {tier.ceiling:g}"
        block = "never" if tier.block is None else f"{tier.block:.2f}"
        figures = _figures(tier.choice.validation)
        table.add_row(name, strength, block, "chosen", *figures)
        if tier.choice.test is not None:
            table.add_row("", "", "", "test", *_figures(tier.choice.test))
    return table


def _figures(measure: TierMeasure) -> tuple[str, ...]:
    added = (
        measure.safe_added,
        measure.borderline_added,
        measure.ordinary_added,
        measure.broken_added,
    )
    return (
        f"{measure.harmful_refused:.0%}",
        *("-" if share is None else f"{100 * share:+.1f}" for share in added),
    )


def _table(title: str, *headings: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title), title_style="bold", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
