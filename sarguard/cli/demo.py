"""`sarguard demo`: the bare model against the guarded one, on clips that ship."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sarguard.cli.options import (
    add_alpha_option,
    add_bundle_option,
    add_model_options,
    add_token_option,
)
from sarguard.policy.tiers import Tier

if TYPE_CHECKING:
    from sarguard.cli.demo_runs import Exchange
    from sarguard.cli.options import Commands

_MAX_NEW_TOKENS = 40
_TIER = "maximum"
_WITHHELD = 1


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="see the guard at work on spoken requests that ship",
        description="Ask the bare model and the guarded one the same 6 harmful and 6 "
        "harmless spoken requests. Of a harmful answer only the first words are shown.",
    )
    parser.add_argument(
        "--model",
        default="reference",
        help="checkpoint directory or hub id (default: the reference model)",
    )
    add_bundle_option(parser)
    strength = parser.add_mutually_exclusive_group()
    strength.add_argument(
        "--tier",
        choices=[tier.value for tier in Tier],
        default=_TIER,
        help=f"how much harm is to be refused, and at what cost (default: {_TIER})",
    )
    add_alpha_option(
        strength, "the same strength for every request, in place of a tier"
    )
    add_token_option(parser, _MAX_NEW_TOKENS)
    parser.add_argument("--json", action="store_true", help="write results as JSON")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show bare and guarded answers side by side.

    Returns:
        1 where some answer was withheld for an error, else 0.
    """
    from sarguard.cli.demo_runs import Verdict, count
    from sarguard.cli.demo_screen import print_demo
    from sarguard.cli.screen import print_json, results

    facts, exchanges = _ask(options)
    if options.json:
        content = [exchange.to_dict() for exchange in exchanges]
        print_json({**facts, "summary": count(exchanges), "exchanges": content})
    else:
        print_demo(results(), exchanges, facts)
    withheld = any(e.verdict is Verdict.WITHHELD for e in exchanges)
    return _WITHHELD if withheld else 0


def _ask(options: argparse.Namespace) -> tuple[dict[str, Any], list[Exchange]]:
    from sarguard.cli.demo_runs import ask_bare, ask_guarded
    from sarguard.cli.load import open_model_and_bundle
    from sarguard.cli.screen import steps
    from sarguard.client import SafeAudioLLM
    from sarguard.datasets import load_clips

    clips = (*load_clips("demo", "harmful"), *load_clips("demo", "safe"))
    loaded, bundle = open_model_and_bundle(options)
    with steps(f"Asking {len(clips)} spoken requests, bare and guarded") as advance:
        total = 2 * len(clips)
        advance(0, total, "bare")
        bare = ask_bare(
            loaded,
            clips,
            max_new_tokens=options.max_new_tokens,
            advance=lambda done: advance(done, total, "bare"),
        )
        tier = options.tier if options.alpha is None else None
        with SafeAudioLLM.from_loaded(
            loaded, bundle, alpha=options.alpha, tier=tier
        ) as client:
            exchanges = ask_guarded(
                client,
                clips,
                bare,
                max_new_tokens=options.max_new_tokens,
                advance=lambda done: advance(len(clips) + done, total, "guarded"),
            )
            facts = {
                "model": loaded.name,
                "parameters": sum(p.numel() for p in loaded.model.parameters()),
                "tier": tier,
                "alpha": options.alpha,
                "bundle_digest": bundle.digest,
                "max_new_tokens": options.max_new_tokens,
            }
    return facts, exchanges
