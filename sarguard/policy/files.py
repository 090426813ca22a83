"""Policy files: where presets are, and strict YAML and JSON.

A duplicate key and an ambiguous value are errors, not guesses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from sarguard.errors import PolicyFormatError, PolicyNotFoundError

PRESETS = Path(__file__).parent / "presets"
YAML_ENDINGS = (".yaml", ".yml")
JSON_ENDINGS = (".json",)

_PRESET_PREFIX = "preset/"
_MAX_BYTES = 2**20


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets, sorted."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def preset_path(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        PolicyNotFoundError: There is no such preset.
    """
    wanted = name.removeprefix(_PRESET_PREFIX)
    known = preset_names()
    if wanted in known:
        return PRESETS / f"{wanted}.yaml"
    close = get_close_matches(wanted, known, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise PolicyNotFoundError(
        f"there is no preset {name!r}: choose {', '.join(known)}, or a file that ends "
        f"in .yaml or .json.{meant}"
    )


def is_policy_path(name: str) -> bool:
    """Return whether a name is a policy file's path, and not a preset's name."""
    return name.lower().endswith(YAML_ENDINGS + JSON_ENDINGS)


def base_path(extends: object, path: Path) -> Path:
    """Return the file that a policy extends.

    Args:
        extends: The value of the key in the policy at `path`.
        path: The policy's own file, to which the value may be relative.

    Raises:
        PolicyFormatError: The value is not text.
        PolicyNotFoundError: It names a preset that does not exist.
    """
    if not isinstance(extends, str):
        raise PolicyFormatError(
            f"{path} extends {extends!r}: name one preset "
            f"({', '.join(preset_names())}) or one file"
        )
    return path.parent / extends if is_policy_path(extends) else preset_path(extends)


def read_values(path: Path) -> dict[str, Any]:
    """Return the values in a YAML or JSON file.

    Raises:
        PolicyNotFoundError: There is no such file.
        PolicyFormatError: It cannot be read, or is not a mapping.
    """
    if path.suffix.lower() not in YAML_ENDINGS + JSON_ENDINGS:
        raise PolicyFormatError(
            f"{path} does not end in {', '.join(YAML_ENDINGS + JSON_ENDINGS)}, so "
            "its format is unknown: rename it"
        )
    text = _read_text(path)
    read = read_json if path.suffix.lower() in JSON_ENDINGS else read_yaml
    return read(text, source=str(path))


def read_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Return the values in a YAML text.

    Scalars are read as in YAML 1.2: `no` and `on` are words, `12:30` is text, dates
    are text. Aliases, tags and duplicate keys are errors.

    Raises:
        PolicyFormatError: The text cannot be read, or is not a mapping.
    """
    try:
        found = yaml.load(text, Loader=_PolicyLoader)  # stricter than a SafeLoader
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise PolicyFormatError(f"{source} is not YAML: {said}") from error
    except RecursionError as error:
        raise PolicyFormatError(f"{source} is nested too deeply") from error
    return _mapping(found, source)


def read_json(text: str, *, source: str) -> dict[str, Any]:
    """Return the values in a JSON text; duplicate keys are errors.

    Raises:
        PolicyFormatError: The text cannot be read, or is not an object.
    """
    try:
        found = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise PolicyFormatError(f"{source} is nested too deeply") from error
    except ValueError as error:
        raise PolicyFormatError(f"{source} is not JSON: {error}") from error
    return _mapping(found, source)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            # One byte more than allowed shows that there is more, and no more is read.
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise PolicyNotFoundError(
            f"there is no policy file {path}: `sarguard policy init` writes one"
        ) from error
    except OSError as error:
        raise PolicyFormatError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise PolicyFormatError(f"{path} is larger than {_MAX_BYTES:,} bytes")
    try:
        # Some editors begin a file with a byte order mark, which is no key.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyFormatError(
            f"{path} is not UTF-8 text: byte {error.start} cannot be decoded"
        ) from error


def _mapping(found: object, source: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        kind = "empty" if found is None else f"a {type(found).__name__}"
        raise PolicyFormatError(
            f"{source} is {kind}: a policy is a mapping, such as\n"
            "  id: clinic\n  extends: strict"
        )
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {key!r}")
        found[key] = value
    return found


def _refuse_constant(name: str) -> float:
    # Python's parser takes NaN and Infinity, which are no JSON.
    raise ValueError(f"{name} is not a finite number")


class _PolicyLoader(yaml.SafeLoader):
    """Loader of plain mappings, lists and scalars, without duplicate keys."""

    # Only the scalars of YAML 1.2 are recognised, see the end of this module: a
    # SafeLoader reads `no` as false and `12:30` as 750.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
        # Aliases of aliases let a short file stand for gigabytes of values.
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
                    f"duplicate key {key!r}",
                    key_node.start_mark,
                )
            found[key] = self.construct_object(value_node, deep=True)
        return found


# A pattern, and the characters that such a scalar begins with: PyYAML looks patterns up
# by the first character.
_SCALAR_PATTERNS = {
    "null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    "float": (
        r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$",
        list("-+.0123456789"),
    ),
}


def _add_scalars(dialect: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    """Let a loader or dumper recognise the scalars of YAML 1.2."""
    for name, (pattern, first) in _SCALAR_PATTERNS.items():
        dialect.add_implicit_resolver(
            f"tag:yaml.org,2002:{name}", re.compile(pattern), first
        )


_add_scalars(_PolicyLoader)


def write_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML that `read_yaml` reads back the same."""
    return yaml.dump(
        dict(values), Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=88
    )


class _Dumper(yaml.SafeDumper):
    """Dumper that writes values out in full instead of as aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


# With the loader's resolvers the dumper quotes every text that reads as a number.
_add_scalars(_Dumper)
