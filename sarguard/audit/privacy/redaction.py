"""Redaction: what looks personal is taken out of a text before it reaches a record.

Patterns find forms, not names: a text without an address or a number passes
unchanged. Where that is not enough, use another `Redactor`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# Speech recognition may write a number out in words.
_DIGIT = (
    "zero|oh|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|"
    "fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|"
    "sixty|seventy|eighty|ninety|hundred|double|triple"
)


@dataclass(frozen=True, slots=True)
class RedactedText:
    """What is left of a text, and how many places were taken out."""

    text: str
    count: int


class Redactor(Protocol):
    """Redactor of texts; if it raises, nothing of the text is kept."""

    @property
    def name(self) -> str:
        """Return the redactor's name and version, as records hold it."""

    def redact(self, text: str) -> RedactedText:
        """Return the text without what is personal."""


class PatternRedactor:
    """Redactor of mail and network addresses, links, numbers in digits or words."""

    name = "sarguard.patterns/1"

    def redact(self, text: str) -> RedactedText:
        """Return the text with a word in brackets for each thing taken out."""
        count = 0

        def replace(label: str, fits: _Check) -> Callable[[re.Match[str]], str]:
            def one(match: re.Match[str]) -> str:
                nonlocal count
                if not fits(match[0]):
                    return match[0]
                count += 1
                return f"[{label}]"

            return one

        for label, pattern, fits in _PATTERNS:
            text = pattern.sub(replace(label, fits), text)
        return RedactedText(text, count)


_Check = Callable[[str], bool]


def _always(found: str) -> bool:
    return True


def _digits(text: str) -> list[int]:
    # Digits of every script: isdecimal() is what int() takes.
    return [int(letter) for letter in text if letter.isdecimal()]


def passes_luhn(text: str) -> bool:
    """Return whether 13 to 19 digits end in the check digit of a payment card."""
    digits = _digits(text)
    if not 13 <= len(digits) <= 19:
        return False
    # Luhn: every second digit from the right counts twice, less 9 above 9.
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def passes_mod_97(text: str) -> bool:
    """Return whether a text is an account number with the check digits of an IBAN."""
    plain = re.sub(r"\s", "", text).upper()
    if not 15 <= len(plain) <= 34:
        return False
    # ISO 13616: country and check digits go last, letters count from 10.
    rotated = plain[4:] + plain[:4]
    return int("".join(str(int(letter, 36)) for letter in rotated)) % 97 == 1


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _has_seven_digits(found: str) -> bool:
    return 7 <= len(_digits(found)) <= 64


# In order: a card's digits would pass for a phone number.
_PATTERNS: tuple[tuple[str, re.Pattern[str], _Check], ...] = (
    ("link", re.compile(r"\bhttps?://\S+", re.IGNORECASE), _always),
    ("email", re.compile(r"[^\s@<>,;:\"()\[\]]+@[^\s@<>,;:\"()\[\]]+\.\w+"), _always),
    (
        "account",
        re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}\b", re.ASCII),
        passes_mod_97,
    ),
    ("address", re.compile(r"(?<![\w.:])[0-9A-Fa-f:.]{3,45}(?![\w:])"), _is_address),
    ("card", re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)"), passes_luhn),
    ("ssn", re.compile(r"(?<!\d)\d{3}[- ]\d{2}[- ]\d{4}(?!\d)"), _always),
    (
        "phone",
        re.compile(r"(?<!\w)\+?\(?\d[\d\s().\-/]{5,20}\d(?!\w)"),
        _has_seven_digits,
    ),
    ("number", re.compile(r"(?<![\d.])\d{6,}(?![\d.])"), _always),
    (
        "number",
        re.compile(rf"\b(?:{_DIGIT})(?:[\s,\-]+(?:and\s+)?(?:{_DIGIT})){{4,}}\b", re.I),
        _always,
    ),
)
