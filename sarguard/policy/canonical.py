"""One way of writing plain values down, so that equal policies have equal digests.

The form is that of RFC 8785 (JSON Canonicalization Scheme): keys sorted by their
UTF-16 code units, no spaces, numbers as ECMAScript writes them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def canonical_json(value: Any) -> str:  # noqa: ANN401
    """Return a value made of mappings, sequences, text, numbers, bools and None.

    Raises:
        ValueError: A number is not finite.
        TypeError: There is something in it that JSON has no form for.
    """
    # bool before the numbers, as it is an int in Python.
    if value is None or isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, Mapping):
        # Big-endian bytes sort as their code units do. Sorting texts would compare code
        # points, which differs beyond U+FFFF.
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be"))
        parts = (f"{canonical_json(str(k))}:{canonical_json(value[k])}" for k in keys)
        return "{" + ",".join(parts) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def canonical_digest(value: Any) -> str:  # noqa: ANN401
    """Return `sha256:` and the SHA-256 of the value's canonical JSON in UTF-8."""
    written = canonical_json(value).encode("utf-8")
    return f"sha256:{hashlib.sha256(written).hexdigest()}"


def _number(value: int | float) -> str:
    """Write a number as ECMAScript's Number::toString does."""
    # JSON has one kind of number, so that 1 and 1.0 are written alike.
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} has no canonical JSON: it is not finite")
    # Minus zero as well, as in ECMAScript.
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    # The shortest digits that read back as the same number.
    parts = Decimal(repr(abs(number))).normalize().as_tuple()
    digits = "".join(map(str, parts.digits))
    point = len(digits) + int(parts.exponent)
    return sign + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    """Put the decimal point behind so many digits, or write an exponent."""
    # 21 and -6 are where ECMAScript's Number::toString begins to write exponents.
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{tail}e{point - 1:+d}"
