"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sarguard.errors import ConfigurationError

Command: TypeAlias = Callable[[argparse.Namespace], int]
"""Runs a command with its options, and returns the exit status."""

if TYPE_CHECKING:
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive_float(text: str) -> float:
    """Return a finite number above 0."""
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return value


def positive_floats(text: str) -> tuple[float, ...]:
    """Return numbers above 0, separated by commas."""
    return tuple(positive_float(part.strip()) for part in text.split(","))


def fraction(text: str) -> float:
    """Return a number from 0 to 1."""
    value = _number(text)
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


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a model is loaded."""
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


def add_model_and_bundle_option(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a model, which is the reference model unless named."""
    parser.add_argument(
        "--model",
        default="reference",
        help="checkpoint directory or hub id (default: the reference model)",
    )
    add_bundle_option(parser)


def add_bundle_option(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a steering bundle."""
    parser.add_argument(
        "--bundle",
        metavar="DIR",
        help="steering bundle; the reference model has its own",
    )


def add_token_option(parser: argparse.ArgumentParser, default: int) -> None:
    """Add the maximum number of tokens of an answer."""
    parser.add_argument(
        "--max-new-tokens",
        type=positive_int,
        default=default,
        metavar="N",
        help=f"most tokens of an answer (default: {default})",
    )


def _number(text: str) -> float:
    """Return a number; NaN, which every range excludes, for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def check_writable(file: str | None) -> None:
    """Raise ConfigurationError for a file that cannot be written, before the work."""
    if file is None or file == "-":
        return
    path = Path(file)
    if path.is_dir() or not path.parent.is_dir():
        found = "is a directory" if path.is_dir() else "lies in no directory"
        raise ConfigurationError(
            f"cannot write {file}: it {found}; give a file in a directory that exists"
        )
