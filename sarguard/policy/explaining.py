"""Turning what pydantic found into lines that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from sarguard.errors import PolicyFormatError

_MOST_SHOWN = 60
# Parts of a place that name a branch of the check, and nothing in the file.
_BRANCH = re.compile(r"^(\[key\]|float|literal\[.*)$")


def explain(
    error: ValidationError, model: type[BaseModel], source: str
) -> PolicyFormatError:
    """Return an error that lists every problem of a policy.

    Args:
        error: What pydantic found.
        model: What the policy was checked against.
        source: Where the policy comes from, for people.
    """
    lines = dict.fromkeys(_line(dict(found), model) for found in error.errors())
    listed = "\n  ".join(lines)
    return PolicyFormatError(f"{source} is not a policy:\n  {listed}")


def suggest_key(model: type[BaseModel], place: tuple[str, ...]) -> str:
    """Return a question that names the key that was probably meant, or nothing."""
    *above, key = place
    near = list(_model_at(model, tuple(above)).model_fields)
    close = get_close_matches(key, near, n=1)
    if close:
        return f" Did you mean {'.'.join([*above, close[0]])}?"
    elsewhere = {path.rpartition(".")[2]: path for path in _paths(model)}
    close = get_close_matches(key, list(elsewhere), n=1, cutoff=0.8)
    if close:
        return f" Did you mean {elsewhere[close[0]]}?"
    return f" Known here: {', '.join(near)}." if near else ""


def _line(found: dict[str, Any], model: type[BaseModel]) -> str:
    loc = (str(part) for part in found["loc"])
    place = tuple(part for part in loc if not _BRANCH.match(part))
    name = ".".join(place) or "the policy"
    if found["type"] == "extra_forbidden":
        return f"{name}: unknown key.{suggest_key(model, place)}"
    if found["type"] == "value_error":
        return f"{name}: {found['ctx']['error']}"
    if name == "api_version":
        return (
            f"api_version: this library reads {found['ctx']['expected']}, found "
            f"{_shown(found['input'])}. Use a library that knows it."
        )
    return f"{name}: {_said(found)}, found {_shown(found['input'])}.{_meant(found)}"


def _said(found: dict[str, Any]) -> str:
    said = str(found["msg"]).removeprefix("Input ")
    return said[:1].lower() + said[1:]


def _meant(found: dict[str, Any]) -> str:
    """Return a question that names the choice that was probably meant."""
    choices = re.findall(r"'([^']+)'", str(found.get("ctx", {}).get("expected", "")))
    close = get_close_matches(str(found["input"]), choices, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _model_at(model: type[BaseModel], place: tuple[str, ...]) -> type[BaseModel]:
    """Return the section at a place, or one without keys."""
    for part in place:
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
