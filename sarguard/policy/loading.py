"""Putting a policy together from its file and all that it extends."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sarguard.errors import PolicyFloorError, PolicyFormatError, PolicyNotFoundError
from sarguard.policy.merging import merge
from sarguard.policy.model import Policy
from sarguard.policy.reading import JSON_ENDINGS, YAML_ENDINGS, read_values
from sarguard.policy.tiers import Tier

PRESETS = Path(__file__).parent / "presets"

_PREFIX = "preset/"
# What names a policy is its own, and never comes from what it extends.
_OWN = ("id", "version", "description")


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets, sorted."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def load_preset(name: str) -> Policy:
    """Return a preset.

    Raises:
        PolicyNotFoundError: There is no such preset.
    """
    return _load(_preset_path(name), ())


def load_policy(path: Path) -> Policy:
    """Return the policy in a file; see `Policy.load`."""
    return _load(path, ())


def open_policy(name: str) -> Policy:
    """Return the policy of a file's path, or of a preset's name.

    Raises:
        PolicyNotFoundError: There is neither.
        PolicyFormatError: It is not a policy.
        PolicyFloorError: It lowers the floor of what it extends.
    """
    return load_policy(Path(name)) if _is_path(name) else load_preset(name)


def _load(path: Path, above: tuple[Path, ...]) -> Policy:
    return Policy.build(_values(path, above), source=str(path))


def _values(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return a file's settings laid over those of what it extends."""
    place = path.resolve()
    if place in above:
        chain = " -> ".join(step.name for step in (*above, place))
        raise PolicyFormatError(f"policies extend each other in a circle: {chain}")
    own = read_values(path)
    extended = own.pop("extends", None)
    if extended is None:
        return own
    base_path = _extended_path(extended, path)
    base = _values(base_path, (*above, place))
    inherited = {key: value for key, value in base.items() if key not in _OWN}
    floor = Policy.build(inherited, source=str(base_path)).floor
    _check_floor(own, floor, path, base_path)
    return merge(_bound(inherited, floor), own)


def _extended_path(extended: object, path: Path) -> Path:
    if not isinstance(extended, str):
        raise PolicyFormatError(
            f"{path} extends {extended!r}: name one preset "
            f"({', '.join(preset_names())}) or one file"
        )
    if _is_path(extended):
        return path.parent / extended
    return _preset_path(extended)


def _is_path(name: str) -> bool:
    return name.lower().endswith(YAML_ENDINGS + JSON_ENDINGS)


def _preset_path(name: str) -> Path:
    wanted = name.removeprefix(_PREFIX)
    known = preset_names()
    if wanted in known:
        return PRESETS / f"{wanted}.yaml"
    close = get_close_matches(wanted, known, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise PolicyNotFoundError(
        f"there is no preset {name!r}: choose {', '.join(known)}, or a file that ends "
        f"in .yaml or .json.{meant}"
    )


def _bound(inherited: dict[str, Any], floor: Tier) -> dict[str, Any]:
    """Write down the floor that holds, so that it stays when the tier rises."""
    return merge(inherited, {"steering": {"floor": floor.value}})


def _check_floor(own: Mapping[str, Any], floor: Tier, path: Path, base: Path) -> None:
    """Refuse a file that holds less than the floor of what it extends."""
    steering = own.get("steering")
    named = steering if isinstance(steering, Mapping) else {}
    for key in ("floor", "tier"):
        lower = [tier for tier in Tier if tier < floor and tier.value == named.get(key)]
        if lower:
            raise PolicyFloorError(
                f"{path} sets steering.{key} to {lower[0]}, but {base.name}, which it "
                f"extends, holds {floor} at the least: raise it, or extend something "
                "milder"
            )
