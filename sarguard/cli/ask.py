"""`sarguard ask clip.wav`: one guarded answer."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from sarguard.cli.options import (
    add_alpha_option,
    add_bundle_option,
    add_model_options,
    add_token_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sarguard.cli.options import Commands
    from sarguard.types import Event, Reply

_MAX_NEW_TOKENS = 128
_WITHHELD = 1
_TRIAL_RATE = 16_000


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ask",
        help="ask a model with a clip, guarded",
        description="Answer a spoken request behind the guard. The answer goes to "
        "stdout, on a terminal as it comes, what the guard did to stderr.",
    )
    parser.add_argument("clip", help="audio file, or - for stdin")
    parser.add_argument("--text", default="", help="what to say besides, in writing")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument(
        "--model",
        default="reference",
        help="checkpoint directory or hub id (default: the reference model)",
    )
    add_bundle_option(parser)
    parser.add_argument(
        "--policy", metavar="FILE", help="what has to hold: a file, or a preset's name"
    )
    parser.add_argument("--audit", metavar="DB", help="ledger to record the request in")
    parser.add_argument(
        "--tier", help="permissive, balanced, strict or maximum (default: the policy's)"
    )
    add_alpha_option(
        parser,
        "the same strength whatever is asked; beside a tier or a policy, the least",
    )
    add_token_option(parser, _MAX_NEW_TOKENS)
    parser.add_argument("--json", action="store_true", help="write the reply as JSON")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask, and write the answer.

    Returns:
        1 where steering could not be proven and the answer was thrown away, else 0.
    """
    from sarguard.cli.load import open_model_and_bundle
    from sarguard.cli.screen import print_json, remarks

    clip = _read(options.clip)
    loaded, bundle = open_model_and_bundle(options)
    from sarguard.client import SafeAudioLLM

    with SafeAudioLLM.from_loaded(
        loaded,
        bundle,
        policy=options.policy,
        audit=options.audit,
        tier=options.tier,
        alpha=options.alpha,
    ) as client:
        live = sys.stdout.isatty() and not options.json
        stream = client.stream(
            clip,
            options.text,
            system=options.system,
            max_new_tokens=options.max_new_tokens,
            entry="cli",
        )
        with stream:
            reply = follow(stream, say=sys.stdout.write if live else _say_nothing)
    if options.json:
        print_json(reply.to_dict())
    else:
        sys.stdout.write("\n" if live else f"{reply.text}\n")
        remarks().print(describe(reply), markup=False, style="dim")
    return _WITHHELD if reply.outcome.value == "error_closed" else 0


def follow(events: Iterable[Event], *, say: Callable[[str], object]) -> Reply:
    """Say each piece of an answer as it comes, and return the reply.

    A text that takes an answer's place begins a line of its own.
    """
    from sarguard.types import Done, Outcome, TextDelta

    said = False
    for event in events:
        if isinstance(event, Done):
            return event.reply
        if isinstance(event, TextDelta):
            say(event.text)
            sys.stdout.flush()
            said = True
        elif event.outcome is not Outcome.REFUSED:
            say(f"\n{event.text}" if said else event.text)
    raise RuntimeError("the stream ended without its reply")


def _say_nothing(_text: str) -> None:
    """Wait for the whole reply: a pipe gets no answer that is taken back."""


def describe(reply: Reply) -> str:
    """Say in a line what became of a request."""
    guard = reply.guard
    record = "" if reply.audit_id is None else f"; record {reply.audit_id}"
    if guard.fault is not None:
        return f"withheld: {guard.fault}{record}"
    tier = "" if guard.tier is None else f"tier {guard.tier}, "
    return (
        f"{reply.outcome}, {reply.usage.output_tokens} tokens in "
        f"{reply.timings.total_s:.1f} s; {tier}alpha {guard.alpha:g}, "
        f"{guard.steered_positions} positions steered on each of "
        f"{guard.layers} layers{record}"
    )


def _read(clip: str) -> str | bytes:
    """Return the clip, tried before a model is loaded for it."""
    from sarguard.audio import AudioLimits, load_audio

    source: str | bytes = sys.stdin.buffer.read() if clip == "-" else clip
    # How much the model hears is for the model to say.
    load_audio(source, sample_rate=_TRIAL_RATE, limits=AudioLimits(max_seconds=3600))
    return source
