from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sarguard.decoding.detokenizer import AnswerText, parse_stop
from sarguard.errors import InvalidRequestError
from tests import tiny

WORDS = tiny.tokenizer()
TOKENS = st.lists(st.integers(0, len(WORDS) - 1), max_size=40)
# Byte by byte, so that most characters take several tokens.
SPOKEN = st.text(st.sampled_from("aA .\n\té✓🎧한"), max_size=20)


def said(tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], str]:
    text = AnswerText(WORDS, stop)
    pieces = []
    for token in tokens:
        pieces.append(text.push(token))
        if text.stopped:
            break
    pieces.append(text.finish())
    return pieces, text.text


@given(TOKENS)
@settings(deadline=None)
def test_pieces_make_the_text_that_decoding_at_once_makes(tokens: list[int]) -> None:
    pieces, text = said(tokens)
    assert "".join(pieces) == text
    assert text == WORDS.decode(tokens, skip_special_tokens=True).strip()


@given(SPOKEN)
@settings(deadline=None)
def test_no_piece_holds_half_a_character(spoken: str) -> None:
    pieces, text = said(WORDS.encode(spoken))
    assert text == spoken.strip()
    assert not any("\ufffd" in piece for piece in pieces)


@given(SPOKEN, st.lists(st.text("aA é✓\n", min_size=1, max_size=3), max_size=3))
@settings(deadline=None)
def test_nothing_of_a_stop_string_is_said(spoken: str, stop: list[str]) -> None:
    pieces, text = said(WORDS.encode(spoken), tuple(stop))
    assert "".join(pieces) == text
    assert spoken.lstrip().startswith(text)
    assert not any(s in text for s in stop)
    if not any(s in spoken for s in stop):
        assert text == spoken.strip()


def test_text_that_may_become_a_stop_string_waits() -> None:
    pieces, text = said(WORDS.encode("Hi END. ENDE."), ("ENDE",))
    assert text == "Hi END."
    assert "E" not in "".join(pieces[:6])


def test_the_stop_string_that_begins_first_counts() -> None:
    assert said(WORDS.encode("one two three"), ("three", "two"))[1] == "one"


@pytest.mark.parametrize(
    ("given_", "expected"),
    [(None, ()), ("end", ("end",)), (["a", "b"], ("a", "b")), ((), ())],
)
def test_stop_is_one_string_or_several(
    given_: object, expected: tuple[str, ...]
) -> None:
    assert parse_stop(given_) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", ["", ["a", ""], [3]])
def test_stop_strings_are_checked(stop: object) -> None:
    with pytest.raises(InvalidRequestError, match="stop"):
        parse_stop(stop)  # type: ignore[arg-type]
