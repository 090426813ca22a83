"""Checks that a voice can speak a text: no markup when plain, safe markup in SSML."""

from __future__ import annotations

import re
import unicodedata
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

MAX_CHARACTERS = 240
"""The longest message: about a quarter of a minute of speech."""

NAMESPACE = "http://www.w3.org/2001/10/synthesis"

_MAX_SSML = 2000
_MARKDOWN = re.compile(
    r"[*_#`~|<>\[\]{}\\]|^\s*(?:[-+\u2022]|\d+[.)])\s|https?://|www\.", re.MULTILINE
)
# Elements of SSML 1.1 that only say how words are spoken. `audio` and the like would
# fetch something, and `mark` and `metadata` carry what is not speech.
_ELEMENTS = frozenset(
    (
        *("speak", "p", "s", "break", "prosody", "emphasis", "say-as", "sub"),
        *("phoneme", "lang", "voice", "w", "token"),
    )
)


def check_speakable(text: str) -> str:
    """Return a message's text, trimmed.

    Raises:
        ValueError: It is empty, too long, or holds markup or control characters.
    """
    text = unicodedata.normalize("NFC", text.strip())
    if not text:
        raise ValueError("the message is empty: say at least one sentence")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"the message has {len(text)} characters, at most {MAX_CHARACTERS} are "
            "allowed: make it shorter"
        )
    found = _MARKDOWN.search(text)
    if found:
        raise ValueError(
            f"the message holds {found.group().strip()!r}, which a voice reads aloud: "
            "write plain sentences"
        )
    if any(unicodedata.category(character)[0] == "C" for character in text):
        raise ValueError(
            "the message holds a line break or another control character: write it "
            "on one line"
        )
    return text


def check_ssml(document: str) -> str:
    """Return an SSML document, trimmed.

    Raises:
        ValueError: It is not well-formed SSML, or does more than speak.
    """
    document = document.strip()
    if len(document) > _MAX_SSML:
        raise ValueError(f"the SSML is longer than {_MAX_SSML} characters")
    # No DTD and no processing instruction: entities expand without bound.
    if "<!" in document or "<?" in document:
        raise ValueError("the SSML holds a declaration: begin with <speak>")
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise ValueError(f"the SSML is not well-formed: {error}") from error
    names = [_local(element.tag) for element in root.iter()]
    if names[0] != "speak":
        raise ValueError(f"the SSML begins with <{names[0]}>: begin with <speak>")
    unspoken = sorted(set(names) - _ELEMENTS)
    if unspoken:
        raise ValueError(
            f"the SSML holds <{unspoken[0]}>: only {', '.join(sorted(_ELEMENTS))} are "
            "allowed"
        )
    return document


def make_ssml(text: str, locale: str) -> str:
    """Return a text as a whole SSML 1.1 document in a language."""
    return (
        f'<speak version="1.1" xmlns="{NAMESPACE}" xml:lang={quoteattr(locale)}>'
        f"{escape(text)}</speak>"
    )


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
