"""Choosing the message that stands in place of an answer."""

from __future__ import annotations

from collections.abc import Mapping
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

from sarguard.policy.frozen import FREEZE, THAW
from sarguard.policy.locales import fallback_chain, normalise_locale
from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.policy.section import Section
from sarguard.policy.speech import check_speakable, check_ssml, make_ssml


def check_locale(tag: str) -> str:
    """Return a locale as BCP 47 recommends to write it.

    Raises:
        ValueError: It is no locale.
    """
    found = normalise_locale(tag)
    if found is None:
        raise ValueError(f"{tag!r} is no locale: write one such as en or pt-BR")
    return found


class Wording(Section):
    """Hold a policy's own words."""

    text: Annotated[str, AfterValidator(check_speakable)]
    ssml: Annotated[str, AfterValidator(check_ssml)] | None = None
    """The same in SSML; without it, made from the text."""

    @model_validator(mode="before")
    @classmethod
    def _take_text(cls, data: Any) -> Any:  # noqa: ANN401
        return {"text": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say in the schema that the text alone may stand for both."""
        full = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string"}, full]}


Wordings = Annotated[Mapping[Reason, Wording], FREEZE, THAW]
Locale = Annotated[str, Field(max_length=35), AfterValidator(check_locale)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Hold what is said in place of an answer."""

    text: str
    ssml: str | None
    """A whole SSML document, where the policy asks for it."""
    locale: str
    """Language of the text, which may be another than was asked for."""
    reason: Reason
    message_id: str
    """Whose words they are, in which language, for which reason."""


class Fallback(Section):
    """Say what is said when there is no answer."""

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
            twice = {tag for tag in tags if tags.count(tag) > 1}
            if twice:
                raise ValueError(f"messages names {min(twice)} twice: keep one")
        return data

    def message(self, reason: Reason | str, locale: str | None = None) -> Message:
        """Return what is said for a reason.

        Args:
            reason: Why there is no answer.
            locale: What the request asked for. `pt-BR` is served by `pt` where there
                is nothing nearer, then by the policy's locale, then by English.
        """
        reason = Reason(reason)
        for tag in fallback_chain(locale, self.locale):
            own = self.messages.get(tag, {}).get(reason)
            if own is not None:
                return self._message(reason, tag, "policy", own)
            if tag in DEFAULT_MESSAGES:
                said = Wording.model_construct(text=DEFAULT_MESSAGES[tag][reason])
                return self._message(reason, tag, "default", said)
        # English has every reason, and every chain ends with it.
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
