from __future__ import annotations

import itertools
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.errors import PolicyFormatError
from sarguard.policy.fallback import fallback_chain, normalise_locale
from sarguard.policy.lint import _REVEALING
from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.policy.model import Policy
from sarguard.policy.speech import MAX_CHARACTERS, check_speakable, make_ssml
from sarguard.refusal import is_refusal

LOCALES = ["en", "es", "fr", "de", "it", "pt", "zh", "ja", "hi", "ar"]
SCRIPTS = {
    "zh": ("\u4e00", "\u9fff"),
    "ja": ("\u3040", "\u30ff"),
    "hi": ("\u0900", "\u097f"),
    "ar": ("\u0600", "\u06ff"),
}
REASONS = ["refused", "blocked", "error", "timeout", "unsupported_audio"]
REASONS += ["over_limit"]
EVERY = list(itertools.product(LOCALES, Reason))
DEFAULT = Policy()
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


def own(messages: dict[str, Any], **fallback: object) -> Policy:
    return Policy.build({"fallback": {"messages": messages, **fallback}})


def test_there_are_ten_languages_and_six_reasons() -> None:
    assert list(DEFAULT_MESSAGES) == LOCALES
    assert [reason.value for reason in Reason] == REASONS
    assert all(list(words) == list(Reason) for words in DEFAULT_MESSAGES.values())


@pytest.mark.parametrize(("locale", "reason"), EVERY, ids=str)
class TestEveryDefault:
    def test_a_voice_can_say_it(self, locale: str, reason: Reason) -> None:
        text = DEFAULT_MESSAGES[locale][reason]
        assert check_speakable(text) == text
        assert 8 <= len(text) <= 160 < MAX_CHARACTERS
        assert text[-1] in ".?\u3002\uff1f\u0964\u061f"

    def test_it_is_in_its_script(self, locale: str, reason: Reason) -> None:
        text = DEFAULT_MESSAGES[locale][reason]
        if locale not in SCRIPTS:
            assert text.isascii() or any(ord(c) < 0x250 for c in text if c.isalpha())
            return
        low, high = SCRIPTS[locale]
        assert sum(low <= character <= high for character in text) > len(text) / 4
        assert not any(c.isascii() and c.isalpha() for c in text)

    def test_it_reveals_no_rule(self, locale: str, reason: Reason) -> None:
        said = DEFAULT_MESSAGES[locale][reason].casefold()
        assert not [word for word in _REVEALING if word in said]
        assert not any(character.isdigit() for character in said)

    def test_its_ssml_is_well_formed(self, locale: str, reason: Reason) -> None:
        message = own({}, ssml=True).message(reason, locale)
        assert message.ssml is not None
        root = ElementTree.fromstring(message.ssml)
        assert root.tag == "{http://www.w3.org/2001/10/synthesis}speak"
        assert root.attrib[XML_LANG] == locale
        assert root.attrib["version"] == "1.1"
        assert root.text == message.text

    def test_it_is_what_is_said(self, locale: str, reason: Reason) -> None:
        message = Policy().message(reason.value, locale)
        assert message.text == DEFAULT_MESSAGES[locale][reason]
        assert message.message_id == f"default.{locale}.{reason.value}"
        assert (message.locale, message.reason) == (locale, reason)
        assert message.ssml is None


def test_messages_differ_from_reason_to_reason() -> None:
    for words in DEFAULT_MESSAGES.values():
        assert len(set(words.values())) == len(Reason)


def test_a_refusal_sounds_like_one() -> None:
    assert is_refusal(DEFAULT_MESSAGES["en"][Reason.REFUSED])
    assert is_refusal(DEFAULT_MESSAGES["en"][Reason.BLOCKED])


class TestLocale:
    @pytest.mark.parametrize(
        ("tag", "written"),
        [
            ("PT_br", "pt-BR"),
            ("zh-hant-tw", "zh-Hant-TW"),
            (" EN ", "en"),
            ("es-419", "es-419"),
            ("sl-rozaj-biske", "sl-rozaj-biske"),
            ("", None),
            ("e", None),
            ("en us", None),
            ("en-", None),
            ("../en", None),
            ("x" * 9, None),
            ("en" + "-abc" * 9, None),
        ],
    )
    def test_tags_are_written_in_one_way(self, tag: str, written: str | None) -> None:
        assert normalise_locale(tag) == written

    @pytest.mark.parametrize(
        ("tags", "chain"),
        [
            (["pt-BR"], ["pt-BR", "pt", "en"]),
            # The example of RFC 4647, section 3.4.
            (
                ["zh-Hant-CN-x-private1-private2"],
                [
                    "zh-Hant-CN-x-private1-private2",
                    "zh-Hant-CN-x-private1",
                    "zh-Hant-CN",
                    "zh-Hant",
                    "zh",
                    "en",
                ],
            ),
            (["fr-CA", "de"], ["fr-CA", "fr", "de", "en"]),
            (["en-GB", "en"], ["en-GB", "en"]),
            ([None, "!!"], ["en"]),
        ],
    )
    def test_a_tag_is_shortened_step_by_step(
        self, tags: list[str | None], chain: list[str]
    ) -> None:
        assert list(fallback_chain(*tags)) == chain

    def test_the_nearest_words_are_said(self) -> None:
        policy = own(
            {
                "pt-BR": {"blocked": "Não posso ajudar nisso aqui."},
                "pt": {"error": "Volte mais tarde, por favor."},
                "sw": {"timeout": "Samahani, uliza tena."},
            },
            locale="de",
        )
        said = {
            (tag, reason): policy.message(reason, tag).message_id
            for tag in ("pt-BR", "pt-PT", "sw-KE", "nl", None)
            for reason in ("blocked", "error", "timeout")
        }
        assert said == {
            ("pt-BR", "blocked"): "policy.pt-BR.blocked",
            ("pt-BR", "error"): "policy.pt.error",
            ("pt-BR", "timeout"): "default.pt.timeout",
            ("pt-PT", "blocked"): "default.pt.blocked",
            ("pt-PT", "error"): "policy.pt.error",
            ("pt-PT", "timeout"): "default.pt.timeout",
            ("sw-KE", "blocked"): "default.de.blocked",
            ("sw-KE", "error"): "default.de.error",
            ("sw-KE", "timeout"): "policy.sw.timeout",
            ("nl", "blocked"): "default.de.blocked",
            ("nl", "error"): "default.de.error",
            ("nl", "timeout"): "default.de.timeout",
            (None, "blocked"): "default.de.blocked",
            (None, "error"): "default.de.error",
            (None, "timeout"): "default.de.timeout",
        }

    @given(st.text(max_size=60))
    def test_whatever_a_request_asks_for_something_is_said(self, tag: str) -> None:
        message = DEFAULT.message("error", tag)
        assert message.text in {m[Reason.ERROR] for m in DEFAULT_MESSAGES.values()}


class TestOwnWords:
    def test_their_ssml_is_theirs_or_made(self) -> None:
        ssml = '<speak>No.<break time="1s"/></speak>'
        policy = own(
            {"en": {"blocked": {"text": "No, sir.", "ssml": ssml}, "error": "1 & 2?"}},
            ssml=True,
        )
        assert policy.message("blocked").ssml == ssml
        made = policy.message("error").ssml
        assert made is not None
        assert "1 &amp; 2?" in made
        assert ElementTree.fromstring(made).text == "1 & 2?"

    @given(st.text(st.characters(exclude_categories=("C",)), min_size=1))
    def test_any_text_is_escaped(self, text: str) -> None:
        assert ElementTree.fromstring(make_ssml(text, 'e"n<')).text == text

    @pytest.mark.parametrize(
        "text",
        [
            *("", "  ", "x" * 241, "a\nb", "**No**", "# No", "- no", "1. no", "`no`"),
            *("[no](x)", "<b>no</b>", "see https://x.y", "www.x.y", "a_b", "a\u200bb"),
            *("a\x07b", "{name}", "no | yes"),
        ],
        ids=repr,
    )
    def test_what_a_voice_cannot_speak_is_refused(self, text: str) -> None:
        with pytest.raises(PolicyFormatError, match=r"messages\.en\.blocked\.text"):
            own({"en": {"blocked": text}})

    @pytest.mark.parametrize(
        "ssml",
        [
            *("<speak>", "no", "<p>no</p>", "<speak><audio src='x'/></speak>"),
            *("<!DOCTYPE x [<!ENTITY a 'b'>]><speak>&a;</speak>", "<speak>&a;</speak>"),
            *("<?xml version='1.0'?><speak/>", "<speak>" + "x" * 2000 + "</speak>"),
            "<speak><mark name='x'/></speak>",
        ],
        ids=repr,
    )
    def test_ssml_that_does_more_than_speak_is_refused(self, ssml: str) -> None:
        with pytest.raises(PolicyFormatError, match="the SSML"):
            own({"en": {"blocked": {"text": "No.", "ssml": ssml}}})
