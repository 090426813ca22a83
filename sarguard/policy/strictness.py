"""Which of two policies is stricter, setting by setting, and what a request may ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from sarguard.errors import PolicyFloorError
from sarguard.policy.tiers import Tier

Plain: TypeAlias = Any

# Settings that a request may make stricter.
_TIGHTENED = (
    *("mode", "steering.", "timeouts.", "audio.", "text.", "history."),
    "checks.",
)
# A path through a mapping of names, as a policy's rules for checks are.
_NAMED = re.compile(r"^(checks\.rules\.)[^.]+\.")
# Settings that a request may choose freely.
_CHOSEN = ("fallback.locale", "fallback.ssml")


class Effect(StrEnum):
    """Whether a change makes a policy stricter."""

    STRONGER = "stronger"
    WEAKER = "weaker"
    OTHER = "other"
    """Neither, or it depends on the model."""


Compare: TypeAlias = Callable[[Plain, Plain], Effect]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting that differs; None stands for one that is not set."""

    path: str
    old: Plain
    new: Plain
    effect: Effect

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}"

    def to_dict(self) -> dict[str, Plain]:
        """Return the change as plain values."""
        return {**asdict(self), "effect": self.effect.value}


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
    rule = _RULES.get(_NAMED.sub(r"\1*.", path))
    # What has no rule is neither stricter nor weaker, so no request can change it.
    return Effect.OTHER if rule is None else rule(old, new)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with another laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def follow_floor(
    asked: Mapping[str, Any], *, tier: Tier, floor: Tier
) -> dict[str, Any]:
    """Raise the tier to a floor that is asked for alone.

    Args:
        asked: Some of a policy's settings.
        tier: Tier of the policy in force.
        floor: Lowest tier that the policy in force allows.

    Raises:
        PolicyFloorError: The request asks for a tier below the floor.
        PolicyFormatError: The request asks for a floor that is no tier.
    """
    steering = asked.get("steering")
    if not isinstance(steering, Mapping):
        return dict(asked)
    below = [t for t in Tier if t < floor and t.value == steering.get("tier")]
    if below:
        raise PolicyFloorError(
            f"the request asks for tier {below[0]}, the floor is {floor}: ask for "
            f"{floor} or more"
        )
    if steering.get("floor") is None or "tier" in steering:
        return dict(asked)
    # A policy whose tier is below its floor is not valid.
    raised = max(tier, Tier.named(steering["floor"]))
    return merge(asked, {"steering": {"tier": raised.value}})


def check_raises(changes: list[Change], floor: Tier) -> None:
    """Refuse changes that make a policy weaker, or that only a policy file may make.

    Args:
        changes: From the policy in force to the one that is asked for.
        floor: Lowest tier that the policy in force allows.

    Raises:
        PolicyFloorError: Lists every change that is refused.
    """
    found = [
        f"{change}: {why}" for change in changes if (why := _refusal(change, floor))
    ]
    if found:
        raise PolicyFloorError(
            "a request can only make its policy stricter:\n  "
            + "\n  ".join(found)
            + "\nTo weaken it, change the policy file, or use an override with a "
            "reason and an expiry."
        )


def check_holds(changes: list[Change]) -> None:
    """Refuse changes that leave a policy weaker.

    Args:
        changes: From the policy in force to the one that is to follow it.

    Raises:
        PolicyFloorError: Lists every change that is refused.
    """
    found = [str(change) for change in changes if _may_weaken(change)]
    if found:
        raise PolicyFloorError(
            "the policy in force can only be followed by a stricter one:\n  "
            + "\n  ".join(found)
            + "\nTo weaken it for a while, use an override with a reason and an "
            "expiry; for good, open the client with another policy."
        )


def _may_weaken(change: Change) -> bool:
    if change.effect is Effect.OTHER:
        # Which of the two is stricter depends on the model.
        return change.path.startswith(("steering.", "checks."))
    return change.effect is Effect.WEAKER


def _refusal(change: Change, floor: Tier) -> str | None:
    """Return why a request cannot make a change, or None if it can."""
    if change.path in _CHOSEN:
        return None
    if not change.path.startswith(_TIGHTENED):
        return "only the policy file decides this"
    if change.path == "steering.tier":
        # Between the floor and the policy's own tier a request may choose.
        return None if Tier(change.new) >= floor else f"the floor is {floor}"
    if change.effect is Effect.STRONGER:
        return None
    if change.effect is Effect.WEAKER:
        return "this is weaker"
    return "whether this is stricter depends on the model: ask for a higher tier"


def _judge(stronger: bool) -> Effect:
    return Effect.STRONGER if stronger else Effect.WEAKER


def _higher(old: Plain, new: Plain) -> Effect:
    """Judge a setting whose higher values are stricter; None is the weakest."""
    return _judge(old is None or (new is not None and new > old))


def _lower(old: Plain, new: Plain) -> Effect:
    """Judge a setting whose lower values are stricter; None is the weakest."""
    return _judge(old is None or (new is not None and new < old))


def _earlier(old: Plain, new: Plain) -> Effect:
    """Judge when a way around the guard ends; None is where there is none."""
    return _judge(new is None or (old is not None and new < old))


def _tier(old: Plain, new: Plain) -> Effect:
    # Never None: `Policy.to_dict` writes a floor that is not set as the tier.
    return _judge(Tier(new) > Tier(old))


def _threshold(old: Plain, new: Plain) -> Effect:
    if "never" in (old, new):
        return _judge(old == "never")
    # The tier's own score depends on the model, so it cannot be compared with a number.
    return Effect.OTHER if "tier" in (old, new) else _judge(new < old)


def _on_flag(old: Plain, new: Plain) -> Effect:
    # Not set is what the check says, which is to block, to raise or to note.
    if "block" in (old, new):
        return _judge(new == "block")
    if "note" in (old, new):
        return _judge(old == "note")
    return Effect.OTHER


def _score(old: Plain, new: Plain) -> Effect:
    # Not set is the check's own, which cannot be compared with a number.
    return Effect.OTHER if None in (old, new) else _judge(new < old)


def _raise_to(old: Plain, new: Plain) -> Effect:
    tiers = {tier.value for tier in Tier}
    if old in tiers and new in tiers:
        return _tier(old, new)
    numbers = isinstance(old, float) and isinstance(new, float)
    return _judge(new > old) if numbers else Effect.OTHER


def _fewer(old: Plain, new: Plain) -> Effect:
    before, after = set(old or ()), set(new or ())
    if before == after:
        return Effect.OTHER
    if after < before:
        return Effect.STRONGER
    return Effect.WEAKER


def _ordered(*weakest_first: Plain) -> Compare:
    return lambda old, new: _judge(weakest_first.index(new) > weakest_first.index(old))


_RULES: dict[str, Compare] = {
    "mode": _ordered("shadow", "enforce"),
    "shadow.reply": _ordered("bare", "steered"),
    "shadow.bare_until": _earlier,
    "steering.tier": _tier,
    "steering.floor": _tier,
    "steering.alpha": _higher,
    "steering.block_threshold": _threshold,
    "steering.decision_tokens": _higher,
    "steering.max_temperature": _lower,
    "failure.on_fault": _ordered("open", "closed"),
    "failure.open_until": _earlier,
    "timeouts.total_s": _lower,
    "timeouts.first_token_s": _lower,
    "timeouts.queue_s": _lower,
    "audio.max_seconds": _lower,
    "audio.min_seconds": _higher,
    "audio.max_bytes": _lower,
    "audio.max_channels": _lower,
    "audio.max_clips": _lower,
    "text.max_chars": _lower,
    "text.max_new_tokens": _lower,
    "history.max_turns": _lower,
    "history.max_seconds": _lower,
    "history.max_tokens": _lower,
    "history.when_exceeded": _ordered("trim", "refuse"),
    "history.reuse": _ordered(True, False),
    "checks.rules.*.on_flag": _on_flag,
    "checks.rules.*.raise_to": _raise_to,
    "checks.rules.*.threshold": _score,
    "checks.rules.*.required": _ordered(None, False, True),
    "checks.services": _fewer,
    "audit.required": _ordered(False, True),
    "audit.on_write_failure": _ordered("degrade", "spool", "block"),
    "audit.spool_records": _lower,
    "audit.checkpoint_records": _lower,
    "audit.checkpoint_seconds": _lower,
    "retention.days": _higher,
    "retention.floor_days": _higher,
    "retention.legal_hold": _ordered(False, True),
    "overrides.allowed": _ordered(True, False),
    "overrides.longest_hours": _lower,
    "overrides.second_person": _ordered(False, True),
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
