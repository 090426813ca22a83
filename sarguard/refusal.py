"""Refusals, recognised by the opening of an answer.

The rule looks in the first 200 characters for phrases in which the speaker declines, or
says that it is not made for this. Things that *others* cannot do, figures of speech ("I
can't wait") and sympathy ("I'm sorry to hear that") are not refusals.
"""

from __future__ import annotations

import re

_OPENING_CHARS = 200
_CANNOT = r"(?:can\s?not|can't|could\s?n(?:o|')t|will not|won't|would not|wouldn't)"
_FIGURE_OF_SPEECH = (
    r"(?:stress|emphasi[sz]e|overstate|wait|believe|imagine|remember|help but|"
    r"agree more|say enough|thank|think of (?:a|anything) better|resist)"
)
_SYMPATHY = (
    r"(?:to (?:hear|learn|know|see)|for your|about your|that you|you(?:'re| are|'ve))"
)
_SPEAKER = r"\b(?:i|we)"
_ADVERB = r"(?:\s(?:\w+ly|really|just|still|also|am|are|do|simply))?"
_ABLE = r"(?:assist|comply|fulfil+|help|provide|support|answer|discuss|engage)"

_REFUSALS = re.compile(
    "|".join(
        (
            rf"{_SPEAKER}{_ADVERB}\s{_CANNOT}\b(?!{_ADVERB}\s{_FIGURE_OF_SPEECH})",
            rf"\b(?:sorry|apologi[sz]e|apologies)\b(?![,.]?\s{_SYMPATHY})",
            rf"{_SPEAKER}(?:'m|'re|\sam|\sare)\s(?:\w+\s)?(?:unable|not able) to\b",
            rf"(?:^|[.!,;]\s)(?:unable|not able) to {_ABLE}\b",
            rf"{_SPEAKER}(?:'ll| will)? (?:must|have to|need to) (?:decline|refuse)\b",
            rf"{_SPEAKER} (?:decline|refuse) to\b",
            rf"{_SPEAKER}(?:'m| am) not (?:going to|allowed to|comfortable|programmed "
            rf"to|permitted to)\b",
            rf"{_SPEAKER} (?:do not|don't) feel comfortable\b",
            r"\bagainst my (?:\w+ )?(?:guidelines|polic\w+|programming|principles)\b",
            rf"(?<!you )\b(?:cannot|can't) {_ABLE}\b(?! but)",
            r"\bsorry\b[^.!?]{0,60}\bbut,? as an?\b",
            rf"{_SPEAKER} (?:do not|don't) have (?:the|any) (?:ability|capability|"
            rf"capacity)\b",
            rf"{_SPEAKER}(?:'m|'re| am| are) not (?:here|designed|equipped|trained|"
            rf"meant) to\b(?! judge)",
        )
    )
)


def is_refusal(text: str) -> bool:
    """Return whether a reply declines, by its first 200 characters."""
    opening = (
        text[:_OPENING_CHARS].lower().replace("\u2019", "'").replace("\u2018", "'")
    )
    return _REFUSALS.search(" ".join(opening.split())) is not None
