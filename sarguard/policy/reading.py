"""Reading YAML and JSON strictly: what is written twice or is ambiguous is an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from sarguard.errors import PolicyFormatError, PolicyNotFoundError

YAML_ENDINGS = (".yaml", ".yml")
JSON_ENDINGS = (".json",)

_MOST_BYTES = 2**20


def read_values(path: Path) -> dict[str, Any]:
    """Return the values in a YAML or JSON file.

    Raises:
        PolicyNotFoundError: There is no such file.
        PolicyFormatError: It cannot be read, or holds something else than a mapping.
    """
    if path.suffix.lower() not in YAML_ENDINGS + JSON_ENDINGS:
        raise PolicyFormatError(
            f"{path} does not end in {', '.join(YAML_ENDINGS + JSON_ENDINGS)}: nobody "
            "can tell how it is written"
        )
    text = _read_text(path)
    read = read_json if path.suffix.lower() in JSON_ENDINGS else read_yaml
    return read(text, source=str(path))


def read_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Return the values in a YAML text.

    Scalars are read as in YAML 1.2: `no` and `on` are words, `12:30` is text, dates
    are text. Aliases, tags and repeated keys are errors.

    Raises:
        PolicyFormatError: The text cannot be read, or is no mapping.
    """
    try:
        found = yaml.load(text, Loader=_PolicyLoader)  # a SafeLoader with less
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise PolicyFormatError(f"{source} is not YAML: {said}") from error
    except RecursionError as error:
        raise PolicyFormatError(f"{source} is nested too deeply") from error
    return _mapping(found, source)


def read_json(text: str, *, source: str) -> dict[str, Any]:
    """Return the values in a JSON text; repeated keys are errors.

    Raises:
        PolicyFormatError: The text cannot be read, or is no object.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError as error:
        raise PolicyFormatError(f"{source} is nested too deeply") from error
    except ValueError as error:
        raise PolicyFormatError(f"{source} is not JSON: {error}") from error
    return _mapping(found, source)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise PolicyNotFoundError(
            f"there is no policy file {path}: `sarguard policy init` writes one"
        ) from error
    except OSError as error:
        raise PolicyFormatError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise PolicyFormatError(f"{path} is larger than {_MOST_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyFormatError(
            f"{path} is not text in UTF-8: byte {error.start} cannot be read"
        ) from error


def _mapping(found: object, source: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        kind = "empty" if found is None else f"a {type(found).__name__}"
        raise PolicyFormatError(
            f"{source} is {kind}: a policy is a mapping, such as\n"
            "  id: clinic\n  extends: strict"
        )
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands there twice")
        found[key] = value
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number that a policy can hold")


class _PolicyLoader(yaml.SafeLoader):
    """Read plain mappings, lists and scalars, and nothing twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "an alias: write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: ANN401
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                key = str(key_node.value)
            if key in found:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key!r} stands there twice",
                    key_node.start_mark,
                )
            found[key] = self.construct_object(value_node, deep=True)
        return found


_SCALARS = {
    "null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    "float": (
        r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$",
        list("-+.0123456789"),
    ),
}


def add_scalars(dialect: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    """Make a loader or dumper tell YAML 1.2's scalars from words."""
    for name, (pattern, first) in _SCALARS.items():
        dialect.add_implicit_resolver(
            f"tag:yaml.org,2002:{name}", re.compile(pattern), first
        )


add_scalars(_PolicyLoader)
