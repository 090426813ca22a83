"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

Command: TypeAlias = Callable[[argparse.Namespace], int]

if TYPE_CHECKING:
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive_float(text: str) -> float:
    """Return a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return value


def share(text: str) -> float:
    """Return a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to 1")
    return value


def positive_int(text: str) -> int:
    """Return a whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number above 0")
    return value


def positive_floats(text: str) -> tuple[float, ...]:
    """Return numbers above 0 that commas part."""
    return tuple(positive_float(part.strip()) for part in text.split(","))


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how a model is loaded."""
    group = parser.add_argument_group("model")
    group.add_argument("--revision", help="branch, tag or commit on the hub")
    group.add_argument(
        "--device-map",
        metavar="MAP",
        help="where it goes, such as cuda or auto (default: the CPU)",
    )
    group.add_argument(
        "--dtype", help="such as bfloat16 (default: the checkpoint's own)"
    )
    group.add_argument(
        "--decoder-layers",
        metavar="PATH",
        help="dotted path of the text decoder's layers, where structure cannot tell",
    )


def add_bundle_option(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a steering bundle."""
    parser.add_argument(
        "--bundle",
        metavar="DIR",
        help="steering bundle; the reference model has its own",
    )


def add_token_option(parser: argparse.ArgumentParser, default: int) -> None:
    """Add the most tokens of an answer."""
    parser.add_argument(
        "--max-new-tokens",
        type=positive_int,
        default=default,
        metavar="N",
        help=f"most tokens of an answer (default: {default})",
    )


def add_alpha_option(parser: argparse._ActionsContainer, what: str) -> None:
    """Add the dose."""
    parser.add_argument("--alpha", type=positive_float, help=what)
