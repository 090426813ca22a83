"""pydantic's validation errors as lines that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from sarguard.errors import PolicyFormatError

_MAX_SHOWN = 60
# pydantic adds parts to a location that name a branch of a union, not a key.
# Keys of older policies: where they went, and what to write.
_MOVED = {
    "text.max_turns": "write history: {{max_turns: {value}}}; it counts the user's "
    "and the assistant's turns, and the oldest leave the prompt where there are more",
}
_BRANCH = re.compile(r"^(\[key\]|float|literal\[.*)$")


def explain(
    error: ValidationError, model: type[BaseModel], source: str
) -> PolicyFormatError:
    """Return an error that lists every problem of a policy.

    Args:
        error: What pydantic found.
        model: The model that the policy was validated against.
        source: Where the policy comes from, for the message.
    """
    lines = dict.fromkeys(_line(dict(found), model) for found in error.errors())
    listed = "\n  ".join(lines)
    return PolicyFormatError(f"{source} is not a policy:\n  {listed}")


def suggest_key(model: type[BaseModel], path: tuple[str, ...]) -> str:
    """Return a question that names the key that was probably meant, or nothing."""
    *above, key = path
    near = list(_model_at(model, tuple(above)).model_fields)
    close = get_close_matches(key, near, n=1)
    if close:
        return f" Did you mean {'.'.join([*above, close[0]])}?"
    elsewhere = {known.rpartition(".")[2]: known for known in _paths(model)}
    close = get_close_matches(key, list(elsewhere), n=1, cutoff=0.8)
    if close:
        return f" Did you mean {elsewhere[close[0]]}?"
    return f" Known here: {', '.join(near)}." if near else ""


def _line(found: dict[str, Any], model: type[BaseModel]) -> str:
    loc = (str(part) for part in found["loc"])
    place = tuple(part for part in loc if not _BRANCH.match(part))
    name = ".".join(place) or "the policy"
    if found["type"] == "extra_forbidden" and name in _MOVED:
        what_to_do = _MOVED[name].format(value=_shortened(found["input"]))
        return f"{name}: there is no such key any more: {what_to_do}."
    if found["type"] == "extra_forbidden":
        return f"{name}: unknown key.{suggest_key(model, place)}"
    if found["type"] == "value_error":
        return f"{name}: {found['ctx']['error']}"
    if name == "api_version":
        return (
            f"api_version: this library reads {found['ctx']['expected']}, found "
            f"{_shortened(found['input'])}. Use a library that knows it."
        )
    value = _shortened(found["input"])
    return f"{name}: {_problem(found)}, found {value}.{_suggest_choice(found)}"


def _problem(found: dict[str, Any]) -> str:
    message = str(found["msg"]).removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _suggest_choice(found: dict[str, Any]) -> str:
    """Return a question that names the choice that was probably meant."""
    choices = re.findall(r"'([^']+)'", str(found.get("ctx", {}).get("expected", "")))
    close = get_close_matches(str(found["input"]), choices, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _model_at(model: type[BaseModel], path: tuple[str, ...]) -> type[BaseModel]:
    """Return the section at a path of keys, or a model without fields."""
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return BaseModel
        model = inner
    return model


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _paths(inner, f"{prefix}{name}.")
        yield f"{prefix}{name}"
