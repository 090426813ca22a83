"""What stands around a request: the contexts that a gate is calibrated over.

A score has to mean the same wherever a clip is heard, so some of the calibration's
clips are read in each of these. The wording is of its own: none of it is in the
contexts that `sarguard evaluate --contexts` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from sarguard.calibration.recipe import Clip
from sarguard.types import Turn

Spoken: TypeAlias = Callable[[Clip, Clip, Clip], tuple[Turn, ...]]
"""Makes a conversation of a clip and of two harmless ones."""
Written: TypeAlias = Callable[[str, Clip], tuple[Turn, ...]]
"""Makes a conversation of a written request and of a harmless clip."""

_PHARMACY = (
    "You are the telephone assistant of a pharmacy. Be brief and friendly, use words "
    "that can be spoken, and never give a price that you do not know. Opening hours "
    "are nine to six, Monday to Saturday."
)
_LONG = (
    f"{_PHARMACY} Greet each caller by name if you know it. If somebody asks for a "
    "repeat prescription, ask for the date of birth and the name of the medicine. If "
    "a caller is upset, stay calm and offer to call back. Never discuss another "
    "customer. If you are not sure what was said, ask once, and then offer to put the "
    "caller through to a colleague at the counter. Delivery is free within five miles."
)
_COURTESY = (
    "Good morning, and thanks for taking the time. Please listen to the recording and "
    "reply to it. My mother will read your reply, so keep it simple and kind."
)
_SCHEMA = (
    "Reply to the recording. Give only a JSON object of this schema, without any other "
    'text: {"type": "object", "properties": {"reply": {"type": "string", "description":'
    ' "What to say to the customer."}, "language": {"type": "string"}}, "required": '
    '["reply"]}'
)


def _user(*clips: Clip, text: str = "") -> Turn:
    return Turn(role="user", text=text, audio=clips)


def _system(text: str) -> Turn:
    return Turn(role="system", text=text)


def _said(text: str) -> Turn:
    return Turn(role="assistant", text=text)


_BEFORE = _said("Of course. It depends on the season, so it is best to ask there.")
_EARLIER = _said("That is a good question, and the answer is usually yes.")

SPOKEN: Mapping[str, Spoken] = MappingProxyType(
    {
        "alone": lambda clip, *_: (_user(clip),),
        "a question beside it": lambda clip, *_: (
            _user(clip, text="What would you say to this?"),
        ),
        "an instruction beside it": lambda clip, *_: (
            _user(clip, text="Reply to the customer."),
        ),
        "courtesies beside it": lambda clip, *_: (_user(clip, text=_COURTESY),),
        "a schema beside it": lambda clip, *_: (_user(clip, text=_SCHEMA),),
        "another clip before it": lambda clip, one, _: (_user(one, clip),),
        "another clip behind it": lambda clip, one, _: (_user(clip, one),),
        "an agent's system prompt": lambda clip, *_: (_system(_PHARMACY), _user(clip)),
        "a long system prompt": lambda clip, *_: (_system(_LONG), _user(clip)),
        "second turn": lambda clip, one, _: (_user(one), _BEFORE, _user(clip)),
        "third turn of an agent": lambda clip, one, two: (
            _system(_PHARMACY),
            _user(one),
            _BEFORE,
            _user(two),
            _EARLIER,
            _user(clip),
        ),
        "acknowledged, then asked in writing": lambda clip, *_: (
            _user(clip),
            _said("Certainly."),
            _user(text="Please go ahead."),
        ),
    }
)
"""Every context of a clip, by name; the first is the clip and nothing else."""

WRITTEN: Mapping[str, Written] = MappingProxyType(
    {
        "in writing": lambda text, _: (_user(text=text),),
        "in writing, an agent's system prompt": lambda text, _: (
            _system(_PHARMACY),
            _user(text=text),
        ),
        "in writing, after a written turn": lambda text, _: (
            _user(text="Do you have a moment?"),
            _said("Yes, what can I do for you?"),
            _user(text=text),
        ),
        "in writing, after a clip": lambda text, one: (
            _user(one),
            _BEFORE,
            _user(text=text),
        ),
        "in writing, beside a clip": lambda text, one: (_user(one, text=text),),
    }
)
"""Every context of a written request, by name."""
