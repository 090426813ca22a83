"""Which arms `sarguard evaluate` opens, and which of them for variants."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sarguard.cli.evaluate.options import TIER_ARMS

if TYPE_CHECKING:
    from sarguard.evaluation.arms.registry import Arm

FULL_VARIANTS = ("unseen-voice", "noise")
FULL_TIMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Hold the arms of a run."""

    arms: tuple[Arm, ...]
    varied: tuple[Arm, ...]
    """Those that are asked the variants of requests too."""
    timed: tuple[Arm, ...]
    """Those whose times are measured, where any are."""


def settle(options: argparse.Namespace) -> None:
    """Put into the options what `--full` stands for, where nothing else is said."""
    if options.full:
        options.variants = options.variants or FULL_VARIANTS
        options.latency = options.latency or FULL_TIMED


def plan(options: argparse.Namespace) -> Plan:
    """Return the arms that the options name."""
    from sarguard.calibration.tiers import DEFAULT_TIER
    from sarguard.evaluation.arms.registry import plan_arms

    default = f"tier-{DEFAULT_TIER}"
    if options.forms:
        from sarguard.evaluation.arms.dose_forms import register_forms

        names = ("bare", default, *register_forms())
        arms = plan_arms(options.alphas, names)
    elif options.full:
        names = ("bare", "zero", "prompt", "raw", "ablated", *TIER_ARMS)
        arms = plan_arms(options.alphas, names)
        arms += plan_arms(options.alphas[1::2], ("random", "shuffled"))
    else:
        arms = plan_arms(options.alphas, options.arms)
    among = ("bare", default) if options.full else options.varied_arms
    varied = [arm for arm in arms if among is None or arm.name in among]
    # Arms that cost the same in time need not all be timed.
    alike = ("bare", "prompt", f"ablated {options.alphas[0]:g}", default)
    timed = [arm for arm in arms if not options.full or str(arm) in alike]
    return Plan(arms=arms, varied=tuple(varied), timed=tuple(timed))
