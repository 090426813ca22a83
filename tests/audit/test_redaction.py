from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.audit.privacy.redaction import PatternRedactor, passes_luhn, passes_mod_97

REDACT = PatternRedactor().redact


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to jane.doe+x@example.co.uk please", "write to [email] please"),
        ("card 4111 1111 1111 1111 thanks", "card [card] thanks"),
        ("IBAN GB82 WEST 1234 5698 7654 32.", "IBAN [account]."),
        ("ssn 078-05-1120", "ssn [ssn]"),
        ("from 192.168.10.4 and 2001:db8::1", "from [address] and [address]"),
        ("call +44 20 7946 0958 now", "call [phone] now"),
        ("call (415) 555-0132", "call [phone]"),
        ("member 8823471", "member [phone]"),
        ("see https://example.org/a?b=jane", "see [link]"),
        ("it is four one five five five oh one", "it is [number]"),
        ("room 12, at 9:30, 3.5 mg, in 2026", "room 12, at 9:30, 3.5 mg, in 2026"),
        ("one or two tablets", "one or two tablets"),
    ],
)
def test_forms(text: str, left: str) -> None:
    assert REDACT(text).text == left


def test_counts() -> None:
    assert REDACT("a@b.io, c@d.io and 078-05-1120").count == 3
    assert REDACT("nothing here").count == 0


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    assert REDACT(text).count >= 0


@given(st.integers(10**8, 10**12))
def test_long_numbers_never_stay(number: int) -> None:
    assert str(number) not in REDACT(f"my number is {number} ok").text


def test_check_digits() -> None:
    assert passes_luhn("7992739871301") is False
    assert passes_luhn("4242424242424242")
    assert not passes_luhn("4242424242424241")
    assert passes_mod_97("DE89370400440532013000")
    assert not passes_mod_97("DE88370400440532013000")
