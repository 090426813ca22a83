"""`sarguard ask clip.wav`: one guarded answer."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from sarguard.cli.options import (
    add_model_and_bundle_option,
    add_model_options,
    add_token_option,
    positive_float,
)
from sarguard.cli.screen import print_json, remarks
from sarguard.types import Done, Outcome, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sarguard.cli.options import Commands
    from sarguard.types import Event, Reply

_MAX_NEW_TOKENS = 128
_WITHHELD = 1
_TRIAL_RATE = 16_000
_TRIAL_SECONDS = 3600


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
    add_model_and_bundle_option(parser)
    parser.add_argument(
        "--policy", metavar="FILE", help="what has to hold: a file, or a preset's name"
    )
    parser.add_argument("--audit", metavar="DB", help="ledger to record the request in")
    parser.add_argument(
        "--tier", help="permissive, balanced, strict or maximum (default: the policy's)"
    )
    parser.add_argument(
        "--alpha",
        type=positive_float,
        help="the same strength whatever is asked; beside a tier or a policy, the "
        "least",
    )
    add_token_option(parser, _MAX_NEW_TOKENS)
    parser.add_argument("--json", action="store_true", help="write the reply as JSON")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask, and write the answer.

    Returns:
        1 where the answer was withheld for an error, else 0.
    """
    from sarguard.cli.load import open_model_and_bundle

    clip = _read(options.clip)
    from sarguard.client import SafeAudioLLM
    from sarguard.client_options import checked_options

    guarded_by = checked_options(
        policy=options.policy,
        audit=options.audit,
        tier=options.tier,
        alpha=options.alpha,
    )
    loaded, bundle = open_model_and_bundle(options)
    live = sys.stdout.isatty() and not options.json
    with (
        SafeAudioLLM.from_loaded(loaded, bundle, **guarded_by) as client,
        client.stream(
            clip,
            options.text,
            system=options.system,
            max_new_tokens=options.max_new_tokens,
            entry="cli",
        ) as stream,
    ):
        reply = write_stream(stream, live=live)
    if options.json:
        print_json(reply.to_dict())
    else:
        sys.stdout.write("\n" if live else f"{reply.text}\n")
        remarks().print(describe(reply), markup=False, style="dim")
    return _WITHHELD if reply.outcome is Outcome.ERROR_CLOSED else 0


def write_stream(events: Iterable[Event], *, live: bool) -> Reply:
    """Read an answer to its end, write it as it comes if `live`, return the reply.

    A text that takes an answer's place begins a line of its own.
    """
    written = False
    for event in events:
        if isinstance(event, Done):
            return event.reply
        text = event.text
        if isinstance(event, Refusal):
            if event.outcome is Outcome.REFUSED:
                continue  # The model's own words, which were written already.
            text = f"\n{text}" if written else text
        # A pipe gets no text that may be replaced later: it gets the reply's.
        if live:
            sys.stdout.write(text)
            sys.stdout.flush()
            written = True
    raise RuntimeError("the stream ended without its reply")


def describe(reply: Reply) -> str:
    """Return one line on what the guard did to a request."""
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
    """Return the clip, decoded once so that a bad one costs no model load."""
    from sarguard.audio import AudioLimits, load_audio

    source: str | bytes = sys.stdin.buffer.read() if clip == "-" else clip
    # The model's own limit, which may be lower, is not known yet.
    limits = AudioLimits(max_seconds=_TRIAL_SECONDS)
    load_audio(source, sample_rate=_TRIAL_RATE, limits=limits)
    return source
