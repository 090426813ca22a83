"""Locales: tags of BCP 47, and which message serves which of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

LAST_RESORT = "en"

_TAG = re.compile(r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")
_LONGEST = 35


def normalise_locale(tag: str) -> str | None:
    """Return a tag as BCP 47 recommends to write it, or None if it is none.

    Language in lower case, script with a capital, region in capitals: `PT_br` is
    written `pt-BR`, `zh-hant-tw` is written `zh-Hant-TW`.
    """
    tag = tag.strip().replace("_", "-")
    if len(tag) > _LONGEST or not _TAG.match(tag):
        return None
    language, *rest = tag.split("-")
    return "-".join([language.lower(), *map(_written, rest)])


def fallback_chain(*tags: str | None) -> Iterator[str]:
    """Yield each tag and what is left of it as it is shortened, and English last.

    This is the lookup of RFC 4647, section 3.4: `zh-Hant-TW`, `zh-Hant`, `zh`. A tag
    that cannot be read is passed over: nobody is left without a message for it.
    """
    seen: set[str] = set()
    for tag in (*tags, LAST_RESORT):
        for shorter in _shortened(normalise_locale(tag) if tag else None):
            if shorter not in seen:
                seen.add(shorter)
                yield shorter


def _shortened(tag: str | None) -> Iterator[str]:
    parts = tag.split("-") if tag else []
    while parts:
        yield "-".join(parts)
        parts.pop()
        # A single letter only introduces what was just taken away.
        while parts and len(parts[-1]) == 1:
            parts.pop()


def _written(part: str) -> str:
    if len(part) == 4 and part.isalpha():
        return part.capitalize()
    if len(part) == 2 and part.isalpha():
        return part.upper()
    return part.lower()
