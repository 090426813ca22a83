"""Telling which of two policies asks for more, setting by setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from sarguard.policy.tiers import Tier

Plain: TypeAlias = Any


class Effect(StrEnum):
    """Name what a change does to what is held."""

    STRONGER = "stronger"
    WEAKER = "weaker"
    OTHER = "other"
    """Neither, or nobody can tell without knowing the model."""


Compare: TypeAlias = Callable[[Plain, Plain], Effect]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Hold one setting that differs; None stands for one that is not set."""

    path: str
    old: Plain
    new: Plain
    effect: Effect

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}"

    def to_dict(self) -> dict[str, Plain]:
        """Return the change as plain values."""
        return {
            "path": self.path,
            "old": self.old,
            "new": self.new,
            "effect": self.effect.value,
        }


def compare(old: Mapping[str, Plain], new: Mapping[str, Plain]) -> list[Change]:
    """Return every setting in which two policies differ, in order of their paths.

    Args:
        old: A policy as plain values; see `Policy.to_dict`.
        new: Another one.
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    pairs = (
        (path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
    )
    return [
        Change(path=path, old=was, new=now, effect=effect_of(path, was, now))
        for path, was, now in pairs
        if was != now
    ]


def effect_of(path: str, old: Plain, new: Plain) -> Effect:
    """Return what changing one setting does."""
    rule = _RULES.get(path)
    return Effect.OTHER if rule is None else rule(old, new)


def _judge(stronger: bool) -> Effect:
    return Effect.STRONGER if stronger else Effect.WEAKER


def _higher(old: Plain, new: Plain) -> Effect:
    """Hold that more is stronger, and that None is the least."""
    return _judge(old is None or (new is not None and new > old))


def _lower(old: Plain, new: Plain) -> Effect:
    """Hold that less is stronger, and that None is the most."""
    return _judge(old is None or (new is not None and new < old))


def _tier(old: Plain, new: Plain) -> Effect:
    return _judge(Tier(new) > Tier(old))


def _threshold(old: Plain, new: Plain) -> Effect:
    if "never" in (old, new):
        return _judge(old == "never")
    # What the tier's own score is depends on the model.
    return Effect.OTHER if "tier" in (old, new) else _judge(new < old)


def _ladder(*rungs: Plain) -> Compare:
    return lambda old, new: _judge(rungs.index(new) > rungs.index(old))


_RULES: dict[str, Compare] = {
    "mode": _ladder("shadow", "enforce"),
    "shadow.reply": _ladder("bare", "steered"),
    "shadow.bare_until": _lower,
    "steering.tier": _tier,
    "steering.floor": _tier,
    "steering.alpha": _higher,
    "steering.block_threshold": _threshold,
    "failure.on_fault": _ladder("open", "closed"),
    "failure.open_until": _lower,
    "timeouts.total_s": _lower,
    "timeouts.first_token_s": _lower,
    "timeouts.queue_s": _lower,
    "audio.max_seconds": _lower,
    "audio.min_seconds": _higher,
    "audio.max_bytes": _lower,
    "audio.max_channels": _lower,
    "audio.max_clips": _lower,
    "text.max_chars": _lower,
    "text.max_turns": _lower,
    "text.max_new_tokens": _lower,
    "audit.required": _ladder(False, True),
    "audit.on_write_failure": _ladder("degrade", "spool", "block"),
    "audit.spool_records": _lower,
    "audit.checkpoint_records": _lower,
    "audit.checkpoint_seconds": _lower,
    "retention.days": _higher,
    "retention.floor_days": _higher,
    "retention.legal_hold": _ladder(False, True),
    "overrides.allowed": _ladder(True, False),
    "overrides.longest_hours": _lower,
    "overrides.second_person": _ladder(False, True),
}


def _flatten(
    values: Mapping[str, Plain], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _shown(value: Plain) -> str:
    return "not set" if value is None else str(value)
