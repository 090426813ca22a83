"""What `sarguard evaluate` is told."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable

from sarguard.cli.options import (
    add_bundle_option,
    add_model_options,
    add_token_option,
    positive_floats,
    positive_int,
)
from sarguard.policy.tiers import Tier

SUITES = ("harmful", "safe", "borderline", "ordinary")
TIER_ARMS = tuple(f"tier-{tier}" for tier in Tier)
HALF_ARMS = tuple(f"{half}-{tier}" for tier in Tier for half in ("block", "steer"))
"""What a tier withholds, and what it steers, alone."""
DEFAULT_ARMS = ("bare", "prompt", "raw", "ablated", *TIER_ARMS, "random")
GUARD_ARMS = ("bare", *TIER_ARMS)
"""The arms of a run that asks what is left of a guard in a conversation."""
RETRIES = 8
_ALPHAS = (0.05, 0.1, 0.2, 0.3)
_MAX_NEW_TOKENS = 28
_BATCH_SIZE = 32


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option."""
    parser.add_argument(
        "model", nargs="?", default="reference", help="model (default: reference)"
    )
    add_bundle_option(parser)
    _add_requests(parser)
    _add_arms(parser)
    _add_judge(parser)
    _add_outputs(parser)
    add_model_options(parser)


def command_line(options: argparse.Namespace) -> str:
    """Return the command that stands for the options that are not the default."""
    parser: argparse.ArgumentParser = options.parser
    words = ["sarguard", "evaluate"]
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if action.dest == "help" or value == action.default:
            continue
        name = [action.option_strings[-1]] if action.option_strings else []
        values = value if isinstance(value, list) else [value]
        for given in values:
            words += [*name, *([] if given is True else [_word(given)])]
    return shlex.join(words)


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(_word(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _add_requests(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("requests")
    group.add_argument(
        "--suites",
        type=_names("suite", lambda: SUITES),
        metavar="A,B,...",
        help=f"which of {', '.join(SUITES)} (default: all, unless --pairs, --suite or "
        "--public brings others)",
    )
    group.add_argument(
        "--split",
        choices=("test", "validation", "calibration", "demo"),
        default="test",
        help="which shipped sentences; tiers are chosen on validation (default: test)",
    )
    group.add_argument(
        "--part",
        choices=("all", "validation", "test"),
        default="all",
        help="a third of the requests to choose settings on, or the rest to report "
        "(default: all)",
    )
    group.add_argument(
        "--voice",
        choices=("seen", "unseen", "all"),
        default="seen",
        help="voices that the reference model was trained on, others, or both "
        "(default: seen)",
    )
    group.add_argument(
        "--variants",
        type=_names("variant", _variants, channels=_channels),
        default=(),
        metavar="A,B,...",
        help="also ask robustness variants: all, channels (telephone, noise, speed, "
        "another speaker), or some of unseen-voice, noise, faster, slower, higher, "
        "lower, faster-15, slower-15, telephone, mu-law, babble, street, "
        "two-speakers, in-text",
    )
    group.add_argument(
        "--contexts",
        type=_words,
        default=(),
        metavar="A,B,...",
        help="also ask in contexts: all, some of those that ship (system prompts, "
        "turns, clips and words around the request), or a YAML file of your own",
    )
    group.add_argument(
        "--attacks",
        type=_words,
        nargs="?",
        const=("all",),
        default=(),
        metavar="A,B,...",
        help="also attack harmful requests: all, or some; without --temperatures, "
        f"{RETRIES} tries at temperature 1 as well",
    )
    group.add_argument(
        "--temperatures",
        type=_temperatures,
        default=(),
        metavar="A,B,...",
        help="also ask the requests as they are at temperatures, such as 0,0.7,1; "
        "they are always asked greedily",
    )
    group.add_argument(
        "--tries",
        type=positive_int,
        metavar="N",
        help="tries of each harmful request at each temperature above 0; it counts as "
        "withheld if every try is (default: 1)",
    )
    group.add_argument(
        "--pairs", metavar="FILE", help="pairs of your own: a JSONL manifest"
    )
    group.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="clips of your own without pairs: a JSONL manifest of harmful, harmless "
        "or unlabelled ones; may be given again",
    )
    group.add_argument(
        "--public",
        action="append",
        default=[],
        metavar="SET=PATH",
        help="a public set that you have: advbench, figstep, sorry-bench, xstest, "
        "voicebench, ajailbench or air-bench; may be given again",
    )
    group.add_argument(
        "--limit",
        type=positive_int,
        metavar="N",
        help="most pairs, and most requests of every other suite",
    )
    group.add_argument("--text", default="", help="text that goes with every clip")


def _add_arms(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("arms")
    group.add_argument(
        "--alphas",
        type=positive_floats,
        default=_ALPHAS,
        metavar="A,B,...",
        help=f"doses (default: {','.join(f'{a:g}' for a in _ALPHAS)})",
    )
    group.add_argument(
        "--arms",
        type=_names("arm", _arms),
        metavar="A,B,...",
        help="all, or some of bare, zero, prompt, raw, ablated, random, shuffled, "
        "tier-NAME, block-NAME and steer-NAME (default: "
        f"{','.join(DEFAULT_ARMS)}; with contexts, attacks or "
        f"temperatures {','.join(GUARD_ARMS)})",
    )
    group.add_argument(
        "--full",
        action="store_true",
        help="what docs/evaluation is made of: every arm, the controls at every second "
        "dose; an unseen voice and noise in the bare model and the default tier; times",
    )
    group.add_argument(
        "--forms",
        action="store_true",
        help="compare other forms of the dose and other gates instead",
    )
    group.add_argument(
        "--varied-arms",
        type=_names("arm", lambda: (*_arms(), "policy")),
        metavar="A,B,...",
        help="arms that are asked variants, contexts, attacks and at temperatures too, "
        "`policy` among them (default: all; where --arms is left out, with contexts, "
        "attacks or temperatures the tiers and policies)",
    )
    group.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="POLICY",
        help="also measure a policy, a file or the name of a preset: the dose that a "
        "client with it gives a request that asks for nothing; may be given again",
    )
    add_token_option(parser, _MAX_NEW_TOKENS)
    group.add_argument(
        "--batch-size", type=positive_int, default=_BATCH_SIZE, metavar="N"
    )


def _add_judge(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--judge-url",
        metavar="URL",
        help="label with a model behind this chat completions endpoint instead of by "
        "rules; its key is read from SARGUARD_JUDGE_KEY",
    )
    group.add_argument("--judge-model", metavar="NAME", help="the endpoint's model")
    group.add_argument(
        "--second-judge",
        metavar="JUDGE",
        help="also label with a second judge, and say how far the two agree: rules, or "
        "MODULE:NAME of a function or a judge of your own",
    )
    group.add_argument(
        "--second-judge-url",
        metavar="URL",
        help="the same with a model behind an endpoint; its key is read from "
        "SARGUARD_SECOND_JUDGE_KEY, or else SARGUARD_JUDGE_KEY",
    )
    group.add_argument(
        "--second-judge-model", metavar="NAME", help="the second endpoint's model"
    )
    group.add_argument(
        "--check-judge",
        action="store_true",
        help="only say how far the judge agrees with a person, and ask no model",
    )
    group.add_argument(
        "--no-topic",
        action="store_true",
        help="do not tell answers that are off their topic (saves one more arm)",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument(
        "--out",
        metavar="DIR",
        help="keep every answer's label and a report there; a run that was stopped "
        "goes on where it was",
    )
    group.add_argument(
        "--latency",
        type=positive_int,
        metavar="N",
        help="also time every arm on N requests, one at a time",
    )
    group.add_argument(
        "--json", metavar="FILE", help="also write JSON, to a file or - for stdout"
    )
    group.add_argument("--markdown", metavar="FILE", help="also write Markdown")
    group.add_argument(
        "--publish",
        metavar="DIR",
        help="also write the report there: a page, Markdown, JSON and the charts",
    )
    group.add_argument(
        "--threats",
        metavar="FILE",
        help="also write the table of attacks into this page, between its markers",
    )


def _names(
    what: str,
    known: Callable[[], tuple[str, ...]],
    **groups: Callable[[], tuple[str, ...]],
) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of names that commas part; `all` stands for every one."""

    def parse(text: str) -> tuple[str, ...]:
        choices = known()
        names = _words(text)
        if names == ("all",):
            return choices
        names = tuple(
            name
            for given in names
            for name in (groups[given]() if given in groups else (given,))
        )
        unknown = sorted(set(names) - set(choices))
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no {what} {', '.join(unknown)}: choose from {', '.join(choices)}"
            )
        return tuple(name for name in choices if name in names)

    return parse


def _words(text: str) -> tuple[str, ...]:
    """Return words that commas part."""
    words = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r}: give names, parted by commas")
    return words


def _temperatures(text: str) -> tuple[float, ...]:
    """Return temperatures, 0 or more each."""
    found = []
    for word in _words(text):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise argparse.ArgumentTypeError(f"{word!r}: give temperatures, 0 or more")
        found.append(value)
    return tuple(found)


def _channels() -> tuple[str, ...]:
    from sarguard.evaluation.data.variants import CHANNELS

    return CHANNELS


def _variants() -> tuple[str, ...]:
    from sarguard.evaluation.data.variants import ALL_VARIANTS

    return ALL_VARIANTS


def _arms() -> tuple[str, ...]:
    from sarguard.evaluation.arms.registry import arm_names

    return arm_names()
