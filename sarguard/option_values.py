"""Values of options as callers give them, in the type that they are meant to have.

What is plain is taken: a number of numpy's, `"5"` from an environment variable, a UUID
as a name. What is not is an error that names the option, the value and what to give.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
import uuid
from typing import Any

from sarguard.errors import InvalidRequestError, SarguardError

MAX_NAME = 256
_LONGEST_FILE_NAME = 255
_WHOLE = re.compile(r"[+-]?\d{1,20}")
_DECIMAL = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][+-]?\d{1,3})?")
_SHOWN = 60


def as_text(
    name: str, value: object, error: type[SarguardError] = InvalidRequestError
) -> str:
    """Return a text that can be written as UTF-8.

    Raises:
        SarguardError: It is no string, or holds half a character.
    """
    if not isinstance(value, str):
        raise error(f"{name} is {shown(value)}: give a text (str)")
    try:
        value.encode()
    except UnicodeEncodeError as fault:
        # A cut emoji. No tokenizer and no ledger takes it.
        raise error(
            f"{name} holds half a character at place {fault.start} (a lone surrogate, "
            "as from cutting through an emoji): cut texts between characters"
        ) from None
    return value


def as_name(
    name: str, value: object, error: type[SarguardError] = InvalidRequestError
) -> str:
    """Return a name of 1 to 256 characters; a UUID or a whole number is its text.

    Raises:
        SarguardError: It is none of these, or holds control characters.
    """
    if isinstance(value, uuid.UUID) or _is_whole(value):
        value = str(value)
    if not isinstance(value, str):
        raise error(f"{name} is {shown(value)}: give a name (str), or None")
    text = as_text(name, value, error)
    if not 0 < len(text) <= MAX_NAME:
        raise error(f"{name} has {len(text)} characters: give 1 to {MAX_NAME}, or None")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise error(
            f"{name} is {shown(text)}: give a name without control characters, or None"
        )
    return text


def as_number(
    name: str, value: object, error: type[SarguardError] = InvalidRequestError
) -> float:
    """Return a number as a float; it need not be finite.

    Raises:
        SarguardError: It is no number, nor a text that is one.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.copysign(math.inf, 1 if value > 0 else -1)  # type: ignore[operator]
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        return float(value)
    single = _single(value)
    if single is not None:
        return as_number(name, single, error)
    raise error(f"{name} is {shown(value)}: give a number")


def as_count(
    name: str, value: object, error: type[SarguardError] = InvalidRequestError
) -> int:
    """Return a whole number.

    Raises:
        SarguardError: It is none, nor a text or another number that is one.
    """
    if _is_whole(value):
        return operator.index(value)  # type: ignore[arg-type]
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if number.is_integer() and abs(number) < 2**53:
            return int(number)
    single = _single(value)
    if single is not None:
        return as_count(name, single, error)
    raise error(f"{name} is {shown(value)}: give a whole number")


def as_path(
    name: str, value: object, error: type[SarguardError] = InvalidRequestError
) -> str:
    """Return a path as a text, which the file system may not have.

    Raises:
        SarguardError: It is none, is empty, or holds a NUL.
    """
    try:
        path = os.fsdecode(value)  # type: ignore[arg-type]
    except (TypeError, UnicodeError):
        raise error(f"{name} is {shown(value)}: give a path") from None
    if not path.strip() or "\0" in path:
        raise error(f"{name} is {shown(path)}: give a path, without NUL characters")
    try:
        names = os.fsencode(path).split(os.fsencode(os.sep))
    except UnicodeEncodeError:
        raise error(f"{name} is {shown(path)}: no file can be named so") from None
    if max(map(len, names)) > _LONGEST_FILE_NAME:
        raise error(
            f"{name} is {shown(path)}: a part of it is longer than file systems take, "
            f"{_LONGEST_FILE_NAME} bytes"
        )
    return path


def shown(value: object) -> str:
    """Return a value as an error shows it: short, and no sound in it."""
    if value is None or isinstance(value, (str, int, float, complex)):
        text = repr(value)
    else:
        text = f"of type {type(value).__qualname__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _single(value: object) -> Any:  # noqa: ANN401
    """Return the number in an array or a tensor that holds one; None for all else."""
    item = getattr(value, "item", None)
    if getattr(value, "ndim", None) != 0 or not callable(item):
        return None
    found = item()
    return found if isinstance(found, (int, float)) else None
