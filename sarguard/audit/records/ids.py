"""Names of records and requests, and the text form of times."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no letter that looks like a digit."""

NAME = re.compile(rf"^[a-z]{{2,8}}_[{ALPHABET}]{{26}}$")
"""What a name made here looks like."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_name(prefix: str) -> str:
    """Return a new name that sorts by the time at which it was made.

    The name is a prefix and a ULID: 48 bits of milliseconds, 80 random bits.
    """
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    # 26 digits of 5 bits hold 130; the first has the top 3 of 128 only.
    digits = (ALPHABET[number >> shift & 31] for shift in range(125, -5, -5))
    return f"{prefix}_{''.join(digits)}"


def now_us() -> int:
    """Return the wall clock in microseconds since 1970."""
    return time.time_ns() // 1000


def time_text(micros: int) -> str:
    """Write microseconds since 1970 as RFC 3339 in UTC, six decimals and a Z."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_second_text(seconds)}.{rest:06d}Z"


def time_us(text: str) -> int:
    """Read a time written by `time_text` back to microseconds since 1970.

    Raises:
        ValueError: if the text has another form.
    """
    micros = text[20:26]
    # Fixed places, not a parser: a verifier reads a million of these.
    if len(text) != 27 or text[19] + text[26] != ".Z" or not micros.isdecimal():
        raise ValueError(f"not a time of the ledger: {text!r}")
    return _second(text[:19]) + int(micros)


# Neighbouring records share their second.
@lru_cache(maxsize=64)
def _second(text: str) -> int:
    elapsed = datetime.fromisoformat(text + "+00:00") - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000


@lru_cache(maxsize=64)
def _second_text(seconds: int) -> str:
    moment = _EPOCH + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")
