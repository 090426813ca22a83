"""Asking for more than a policy holds; less is never given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sarguard.errors import PolicyFloorError
from sarguard.policy.strictness import Change, Effect
from sarguard.policy.tiers import Tier

# What a request may ask for at all, as long as it is more.
_ASKED = ("mode", "steering.", "timeouts.", "audio.", "text.")
# What a request may choose freely.
_CHOSEN = ("fallback.locale", "fallback.ssml")


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
    """Let the tier rise with a floor that is asked for alone.

    Args:
        asked: Some of a policy's settings.
        tier: Tier of the policy in force.
        floor: Least tier of the policy in force.

    Raises:
        PolicyFloorError: The request asks for a tier below the floor.
        PolicyFormatError: The request asks for a floor that is no tier.
    """
    steering = asked.get("steering")
    if not isinstance(steering, Mapping):
        return dict(asked)
    lower = [low for low in Tier if low < floor and low.value == steering.get("tier")]
    if lower:
        raise PolicyFloorError(
            f"the request asks for tier {lower[0]}, the floor is {floor}: ask for "
            f"{floor} or more"
        )
    if steering.get("floor") is None or "tier" in steering:
        return dict(asked)
    risen = max(tier, Tier.named(steering["floor"]))
    return merge(asked, {"steering": {"tier": risen.value}})


def check_raises(changes: list[Change], floor: Tier) -> None:
    """Refuse changes that ask for less, or for what only a policy file decides.

    Args:
        changes: From the policy in force to the one that is asked for.
        floor: Least tier of the policy in force.

    Raises:
        PolicyFloorError: Names every change that cannot be had.
    """
    found = [
        f"{change}: {why}" for change in changes if (why := _refusal(change, floor))
    ]
    if found:
        raise PolicyFloorError(
            "a request can only ask for more than its policy holds:\n  "
            + "\n  ".join(found)
            + "\nTo hold less, change the policy file, or use an override with a "
            "reason and an expiry."
        )


def _refusal(change: Change, floor: Tier) -> str | None:
    """Say why a change cannot be had, or None if it can."""
    if change.path in _CHOSEN:
        return None
    if not change.path.startswith(_ASKED):
        return "only the policy file decides this"
    if change.path == "steering.tier":
        # Between the floor and the policy's own tier a request may choose.
        return None if Tier(change.new) >= floor else f"the floor is {floor}"
    if change.effect is Effect.STRONGER:
        return None
    if change.effect is Effect.WEAKER:
        return "this holds less"
    return "nobody can tell whether this holds more: ask for a higher tier"
