"""Which requests `sarguard evaluate` asks."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from sarguard.cli.evaluate.options import SUITES

if TYPE_CHECKING:
    from sarguard.evaluation.data.items import Item


def choose_items(options: argparse.Namespace) -> list[Item]:
    """Return every request that the options name, variants included."""
    from sarguard.evaluation.data.items import with_text
    from sarguard.evaluation.data.public_sets import public_suite
    from sarguard.evaluation.data.suites import load_suites, user_suite

    own: list[Item] = []
    if options.pairs is not None:
        own += user_suite(options.pairs, limit=options.limit, part=options.part)
    for given in options.public:
        own += public_suite(given, limit=options.limit, part=options.part)
    names = options.suites or (() if own else SUITES)
    shipped: list[Item] = []
    if names:
        shipped = load_suites(
            names,
            split=options.split,
            voice=None if options.voice == "all" else options.voice,
            limit=options.limit,
            part=options.part,
        )
    items = with_text([*shipped, *own], options.text)
    return [*items, *_varied(options, names, items)]


def _varied(
    options: argparse.Namespace, names: tuple[str, ...], items: list[Item]
) -> list[Item]:
    from sarguard.evaluation.data.items import with_text
    from sarguard.evaluation.data.suites import load_suites
    from sarguard.evaluation.data.variants import UNSEEN_VOICE, vary

    found: list[Item] = []
    for name in options.variants:
        if name != UNSEEN_VOICE:
            found += vary(items, name)
        elif names and options.split == "test" and options.voice == "seen":
            others = load_suites(
                names, voice="unseen", limit=options.limit, part=options.part
            )
            found += [
                replace(item, variant=UNSEEN_VOICE)
                for item in with_text(others, options.text)
            ]
    return found
