"""What `sarguard evaluate` asks, and in which arms."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sarguard.cli.evaluate.options import (
    DEFAULT_ARMS,
    GUARD_ARMS,
    HALF_ARMS,
    RETRIES,
    SUITES,
    TIER_ARMS,
)
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    from sarguard.evaluation.arms.arm import Arm
    from sarguard.evaluation.data.items import Item
    from sarguard.guard.effective_policy import EffectivePolicy

FULL_VARIANTS = ("unseen-voice", "noise")
FULL_TIMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The arms of a run."""

    arms: tuple[Arm, ...]
    varied: tuple[Arm, ...]
    """Those that are asked the variants of requests too."""
    timed: tuple[Arm, ...]
    """Those whose times are measured, where any are."""
    policies: Mapping[str, EffectivePolicy]
    """The policies that are measured, by id."""


def fill_in(options: argparse.Namespace) -> None:
    """Put into the options what others stand for, where nothing else is said."""
    if options.full:
        options.variants = options.variants or FULL_VARIANTS
        options.latency = options.latency or FULL_TIMED
    if options.attacks and not options.temperatures:
        # Asking again is an attack too.
        options.temperatures, options.tries = (1.0,), options.tries or RETRIES
    options.tries = options.tries or 1
    if options.arms is None:
        guarded = _asks_around(options) and not options.full
        options.arms = GUARD_ARMS if guarded else DEFAULT_ARMS


def _asks_around(options: argparse.Namespace) -> bool:
    return bool(options.contexts or options.attacks or options.temperatures)


def plan_run(options: argparse.Namespace) -> Plan:
    """Return the arms that the options name.

    Raises:
        PolicyError: A policy cannot be read.
        ConfigurationError: Two policies have the same id.
    """
    from sarguard.calibration.tiers import DEFAULT_TIER
    from sarguard.evaluation.arms.arm import BARE, POLICY, Arm
    from sarguard.evaluation.arms.registry import plan_arms

    default = Arm(name=f"tier-{DEFAULT_TIER}")
    policies = _open_policies(options.policy)
    if options.forms:
        from sarguard.evaluation.arms.dose_forms import register_forms

        names = (BARE.name, default.name, *register_forms())
        arms = plan_arms(options.alphas, names)
    elif options.full:
        names = ("bare", "zero", "prompt", "raw", "ablated", *TIER_ARMS, *HALF_ARMS)
        arms = plan_arms(options.alphas, names)
        arms += plan_arms(options.alphas[1::2], ("random", "shuffled"))
    else:
        arms = plan_arms(options.alphas, options.arms)
    arms += tuple(Arm(name=POLICY, policy=name) for name in policies)
    full = (BARE.name, default.name, POLICY)
    among = full if options.full else options.varied_arms
    # Arms that cost the same in time need not all be timed.
    mildest = Arm(name="ablated", alpha=options.alphas[0])
    unlike = (BARE, Arm(name="prompt"), mildest, default)
    return Plan(
        arms=arms,
        varied=tuple(arm for arm in arms if among is None or arm.name in among),
        timed=tuple(arm for arm in arms if not options.full or arm in unlike),
        policies=policies,
    )


def _open_policies(names: list[str]) -> dict[str, EffectivePolicy]:
    from sarguard.guard.factory import effective_policy

    found: dict[str, EffectivePolicy] = {}
    for name in names:
        effective = effective_policy(policy=name)
        known = effective.in_force.policy.id
        if known in found:
            raise ConfigurationError(
                f"two policies are called {known}: give each an id of its own"
            )
        found[known] = effective
    return found


def choose_items(options: argparse.Namespace) -> list[Item]:
    """Return every request that the options name, variants included."""
    from sarguard.evaluation.data.items import with_text
    from sarguard.evaluation.data.named_suites import named_suite
    from sarguard.evaluation.data.public_sets import public_suite
    from sarguard.evaluation.data.suites import load_suites, user_suite

    own: list[Item] = []
    if options.pairs is not None:
        own += user_suite(options.pairs, limit=options.limit, part=options.part)
    for given in options.suite:
        own += named_suite(given, limit=options.limit, part=options.part)
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
    return [
        *items,
        *_varied(options, names, items),
        *_in_contexts(options, items),
        *_attacked(options, items),
    ]


def _in_contexts(options: argparse.Namespace, items: list[Item]) -> list[Item]:
    from sarguard.cli.evaluate.contexts import read_contexts
    from sarguard.evaluation.data.contexts import ALONE, put_into

    # What is alone is asked anyway, and is what contexts are compared with.
    contexts = [c for c in read_contexts(options.contexts) if c.name != ALONE]
    return [item for context in contexts for item in put_into(items, context)]


def _attacked(options: argparse.Namespace, items: list[Item]) -> list[Item]:
    from sarguard.cli.evaluate.contexts import read_attacks
    from sarguard.evaluation.data.contexts import put_into

    harmful = [item for item in items if item.kind == "harmful"]
    return [
        item
        for attack in read_attacks(options.attacks)
        for item in put_into(harmful, attack, axis="attack")
    ]


def leave_out_clips(items: list[Item], *, single_audio: bool) -> list[Item]:
    """Return the requests that a model can be asked.

    Args:
        items: What was chosen.
        single_audio: Whether the model takes one clip a conversation.
    """
    return [item for item in items if item.clips <= 1 or not single_audio]


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
