"""Messages in place of an answer: a policy's own words, and their locales."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.policy.section import FREEZE, THAW, Section
from sarguard.policy.speech import check_speakable, check_ssml, make_ssml

LAST_RESORT = "en"

_TAG = re.compile(r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")
_MAX_TAG = 35


def normalise_locale(tag: str) -> str | None:
    """Return a tag in the case that BCP 47 recommends, or None if it is malformed.

    Language in lower case, script with a capital, region in capitals: `PT_br` is
    written `pt-BR`, `zh-hant-tw` is written `zh-Hant-TW`.
    """
    tag = tag.strip().replace("_", "-")
    if len(tag) > _MAX_TAG or not _TAG.match(tag):
        return None
    language, *rest = tag.split("-")
    return "-".join([language.lower(), *map(_subtag_case, rest)])


def fallback_chain(*tags: str | None) -> Iterator[str]:
    """Yield each tag, its ever shorter prefixes, and English last.

    This is the lookup of RFC 4647, section 3.4: `zh-Hant-TW`, `zh-Hant`, `zh`. A
    malformed tag is skipped, so a request always gets a message.
    """
    seen: set[str] = set()
    for tag in (*tags, LAST_RESORT):
        for shorter in _shortened(normalise_locale(tag) if tag else None):
            if shorter not in seen:
                seen.add(shorter)
                yield shorter


def check_locale(tag: str) -> str:
    """Return a locale in the case that BCP 47 recommends.

    Raises:
        ValueError: It is not a locale.
    """
    found = normalise_locale(tag)
    if found is None:
        raise ValueError(
            f"{tag!r} is not a locale: write a BCP 47 tag such as en or pt-BR"
        )
    return found


class Wording(Section):
    """A policy's own words for one reason."""

    text: Annotated[str, AfterValidator(check_speakable)]
    ssml: Annotated[str, AfterValidator(check_ssml)] | None = None
    """The same as an SSML document; without it, one is made from the text."""

    @model_validator(mode="before")
    @classmethod
    def _take_text(cls, data: Any) -> Any:  # noqa: ANN401
        return {"text": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Allow plain text in the schema: it is short for `{"text": ...}`."""
        full = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string"}, full]}


Wordings = Annotated[Mapping[Reason, Wording], FREEZE, THAW]
Locale = Annotated[str, Field(max_length=_MAX_TAG), AfterValidator(check_locale)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is said in place of an answer."""

    text: str
    ssml: str | None
    """A whole SSML document, where the policy asks for it."""
    locale: str
    """Language of the text, which may be another than was asked for."""
    reason: Reason
    message_id: str
    """`policy` or `default`, the locale and the reason, joined by dots."""


class Fallback(Section):
    """What is said when there is no answer."""

    locale: Locale = "en"
    """Language of a request that names none."""
    ssml: bool = False
    """Whether messages also come as SSML, for a voice that reads it."""
    replace_refusals: bool = False
    """Whether the message for `refused` takes the place of the model's own words."""
    messages: Annotated[Mapping[Locale, Wordings], FREEZE, THAW] = Field(
        default_factory=dict
    )
    """The policy's own words, by locale and reason; the rest is the library's."""

    @model_validator(mode="before")
    @classmethod
    def _check_locales(cls, data: Any) -> Any:  # noqa: ANN401
        found = data.get("messages") if isinstance(data, Mapping) else None
        if isinstance(found, Mapping):
            tags = [normalise_locale(tag) or tag for tag in found if type(tag) is str]
            duplicates = {tag for tag in tags if tags.count(tag) > 1}
            if duplicates:
                raise ValueError(
                    f"duplicate locale {min(duplicates)} in messages: keep one"
                )
        return data

    def message(self, reason: Reason | str, locale: str | None = None) -> Message:
        """Return what is said for a reason.

        Args:
            reason: Why there is no answer.
            locale: What the request asked for. `pt-BR` is served by `pt` where there
                is nothing nearer, then by the policy's locale, then by English.
        """
        reason = Reason(reason)
        # A policy's own words for a near locale come before the library's for the same
        # one; a nearer locale comes before both.
        for tag in fallback_chain(locale, self.locale):
            own = self.messages.get(tag, {}).get(reason)
            if own is not None:
                return self._message(reason, tag, "policy", own)
            if tag in DEFAULT_MESSAGES:
                said = Wording.model_construct(text=DEFAULT_MESSAGES[tag][reason])
                return self._message(reason, tag, "default", said)
        # Unreachable: every chain ends with English, which has a text for every reason.
        raise KeyError(f"no message for {reason}")

    def _message(
        self, reason: Reason, locale: str, source: str, words: Wording
    ) -> Message:
        ssml = words.ssml or make_ssml(words.text, locale)
        return Message(
            text=words.text,
            ssml=ssml if self.ssml else None,
            locale=locale,
            reason=reason,
            message_id=f"{source}.{locale}.{reason}",
        )


def _shortened(tag: str | None) -> Iterator[str]:
    parts = tag.split("-") if tag else []
    while parts:
        yield "-".join(parts)
        parts.pop()
        # A single letter introduces the subtag that was just removed: `en-x-clinic`.
        while parts and len(parts[-1]) == 1:
            parts.pop()


def _subtag_case(part: str) -> str:
    if len(part) == 4 and part.isalpha():
        return part.capitalize()
    if len(part) == 2 and part.isalpha():
        return part.upper()
    return part.lower()
