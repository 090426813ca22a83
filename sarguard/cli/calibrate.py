"""`sarguard calibrate MODEL -o bundle/`: make a model's steering bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.cli.options import (
    add_model_options,
    positive_float,
    positive_int,
    share,
)
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from sarguard.cli.options import Commands
    from sarguard.datasets import CalibrationPair
    from sarguard.models.loading import LoadedModel
    from sarguard.steering.bundle import BundleCard

_MOST_ROWS = 12


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
        type=share,
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
    from sarguard.cli.load import open_model
    from sarguard.cli.screen import print_json, results, steps

    _check_output(options.output)
    if options.pairs is not None:
        from sarguard.datasets import read_user_manifest

        read_user_manifest(options.pairs)
    loaded = open_model(options)
    from sarguard.calibration.build import make_bundle
    from sarguard.calibration.recipe import Recipe

    pairs, benign = _clips(options, loaded)
    texts = {
        name: value
        for name in ("instruction", "refusal")
        if (value := getattr(options, name)) is not None
    }
    recipe = Recipe(rank=options.rank, lam=options.lam, **texts)
    with steps(f"Calibrating on {len(pairs)} pairs") as advance:
        bundle = make_bundle(
            loaded,
            pairs,
            recipe,
            benign=benign,
            alpha=options.alpha,
            batch_size=options.batch_size,
            needs_refusal=not options.allow_no_refusal,
            progress=lambda done, total: advance(done, total, ""),
        )
    if options.choose_tiers:
        from sarguard.cli.calibrate_tiers import choose_and_prove

        bundle = choose_and_prove(loaded, bundle, limit=options.limit)
    saved = bundle.save(options.output)
    if options.json:
        card = bundle.card.model_dump()
        print_json({"directory": str(saved), "digest": bundle.digest, "card": card})
    else:
        print_summary(results(), bundle.card, saved)
    return 0


def print_summary(console: Console, card: BundleCard, saved: Path) -> None:
    """Write what the vectors look like, layer by layer, and what to do next."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sarguard.calibration.tiers import TRUSTED_AUC

    table = Table(
        title=Text(f"{card.model_name}: {card.pairs} pairs, rank {card.rank}"),
        title_style="bold",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in (
        "layer",
        "raw norm",
        "ablated norm",
        "state norm",
        "cosine",
        "safe variance removed",
    ):
        table.add_column(heading, justify="right")
    for layer in _chosen_layers(card.layers):
        table.add_row(*_row(card, layer))
    console.print(table)
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
    check = card.refusal_check
    if check is not None:
        console.print(
            Text(
                f"Steering takes the refusal sentence from {check.bare:.2f} to "
                f"{check.steered:.2f} nats per token, a random push to "
                f"{check.random:.2f} ({check.clips} harmful clips)."
            )
        )
    if card.gate.auc < TRUSTED_AUC:
        console.print(
            Text(
                f"That is below an AUC of {TRUSTED_AUC}: the gate is not asked, and "
                "every tier gives a constant dose."
            )
        )
    if any(tier.choice for tier in card.tiers.values()):
        from sarguard.cli.calibrate_tiers import print_tiers

        print_tiers(console, card)
    console.print(Text(f"Saved in {saved}. Try it:"), soft_wrap=True)
    console.print(
        Text(f"  sarguard ask clip.wav --model {card.model_name} --bundle {saved}"),
        soft_wrap=True,
    )


def _row(card: BundleCard, layer: int) -> tuple[str, ...]:
    return (
        str(layer),
        f"{card.raw_norms[layer]:.2f}",
        f"{card.norms[layer]:.2f}",
        f"{card.state_norms[layer]:.2f}",
        f"{card.cosine[layer]:.3f}",
        f"{sum(card.explained_variance[layer]):.0%}",
    )


def _chosen_layers(layers: int) -> list[int]:
    """Return all layers, or a dozen from the first to the last."""
    if layers <= _MOST_ROWS:
        return list(range(layers))
    step = (layers - 1) / (_MOST_ROWS - 1)
    return [round(step * row) for row in range(_MOST_ROWS)]


def _clips(
    options: argparse.Namespace, loaded: LoadedModel
) -> tuple[list[CalibrationPair], list[np.ndarray]]:
    """Return the pairs, and the harmless clips that go with the shipped ones."""
    from sarguard.datasets import load_benign, load_pairs, load_user_pairs

    rate, limit = loaded.sampling_rate, options.limit
    if options.pairs is not None:
        return load_user_pairs(options.pairs, sample_rate=rate, limit=limit), []
    pairs = load_pairs("calibration", sample_rate=rate, limit=limit)
    return pairs, load_benign(sample_rate=rate, limit=limit)


def _check_output(output: str) -> None:
    """Find out before the calibration, not after it."""
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
