"""The policy: what has to hold for every answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from sarguard.errors import PolicyFloorError, PolicyFormatError
from sarguard.policy.canonical import canonical_digest, canonical_json
from sarguard.policy.check_rules import CheckRules
from sarguard.policy.fallback import Fallback, Message
from sarguard.policy.files import base_path, is_policy_path, preset_path, read_values
from sarguard.policy.messages import Reason
from sarguard.policy.section import Name, Number, Section
from sarguard.policy.sections import (
    AudioBounds,
    Audit,
    Failure,
    History,
    Mode,
    OverrideRules,
    Retention,
    Shadow,
    Steering,
    TextBounds,
    Timeouts,
)
from sarguard.policy.strictness import check_raises, compare, follow_floor, merge
from sarguard.policy.tiers import Tier
from sarguard.policy.validation_errors import explain
from sarguard.types import Outcome

if TYPE_CHECKING:
    import os

UNNAMED = "unnamed"
"""The id of a policy that has no other."""

# What identifies a policy is never inherited from the one it extends.
_NOT_INHERITED = ("id", "version", "description")


class Policy(Section):
    """What has to hold for every answer; frozen, and validated when built.

    Build one in code, or read it with `Policy.load` or `Policy.preset`.
    """

    api_version: Literal["sarguard/v1"] = "sarguard/v1"
    """Version of this format."""
    id: Name = UNNAMED
    """The policy's name in records."""
    version: Number = 1
    """Raised by its author with each change."""
    description: str = Field(default="", max_length=2000)
    """What it is for, in words."""
    mode: Mode = Mode.ENFORCE
    """`shadow` records what would have been blocked, and lets it through, steered."""
    shadow: Shadow = Shadow()
    steering: Steering = Steering()
    failure: Failure = Failure()
    timeouts: Timeouts = Timeouts()
    audio: AudioBounds = AudioBounds()
    text: TextBounds = TextBounds()
    history: History = History()
    checks: CheckRules = CheckRules()
    fallback: Fallback = Fallback()
    audit: Audit = Audit()
    retention: Retention = Retention()
    overrides: OverrideRules = OverrideRules()

    @model_validator(mode="after")
    def _check_shadow(self) -> Policy:
        if self.shadow.reply == "bare" and self.mode is not Mode.SHADOW:
            raise ValueError(
                "shadow.reply is bare and mode is enforce: set mode: shadow, or reply "
                "steered"
            )
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy from a YAML or JSON file, with all that it extends.

        Raises:
            PolicyNotFoundError: There is no such file, or it extends one that is not.
            PolicyFormatError: It is not a policy; the message lists every problem.
            PolicyFloorError: It lowers the floor of what it extends.
        """
        return cls.build(_load_values(Path(path)), source=str(path))

    @classmethod
    def preset(cls, name: str) -> Policy:
        """Return a policy that ships with the library.

        Raises:
            PolicyNotFoundError: There is no such preset.
        """
        return cls.load(preset_path(name))

    @classmethod
    def build(cls, values: Mapping[str, Any], *, source: str = "the mapping") -> Policy:
        """Validate plain values, as in a file, and return their policy.

        Types are not converted: "30" is not a number, and 1 is not true.

        Raises:
            PolicyFormatError: They are not a policy; the message lists every problem.
        """
        document = _to_json(values, source)
        try:
            # Validated as JSON although it came as values: strict validation takes a
            # text for a tier or a time from JSON only, and still converts no "30" to a
            # number.
            return cls.model_validate_json(document, strict=True)
        except ValidationError as error:
            raise explain(error, cls, source) from error

    @cached_property
    def digest(self) -> str:
        """Return `sha256:` and the digest of the policy's canonical JSON.

        It is the same for any order of keys and any formatting of the file.
        """
        # Cached: every record and every answer carries it, and a policy is frozen.
        return canonical_digest(self.to_dict())

    def __copy__(self) -> Policy:
        # `model_copy(update=...)` changes a copy: it must not keep the cached digest.
        copied = super().__copy__()
        copied.__dict__.pop("digest", None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Policy:
        copied = super().__deepcopy__(memo)
        copied.__dict__.pop("digest", None)
        return copied

    @property
    def floor(self) -> Tier:
        """Return the lowest tier that a request may name."""
        return self.steering.lowest_tier

    def to_dict(self) -> dict[str, Any]:
        """Return every setting as plain values, defaults and floor included."""
        plain = self.model_dump(mode="json")
        plain["steering"]["floor"] = self.floor.value
        return plain

    def canonical(self) -> str:
        """Return the canonical JSON that the digest is taken of."""
        return canonical_json(self.to_dict())

    def record_fields(self, tier: Tier | None = None) -> dict[str, str]:
        """Return what a ledger record holds of the policy.

        Args:
            tier: The tier of the request, if it is not the policy's own.
        """
        return {
            "id": self.id,
            "version": str(self.version),
            "digest": self.digest,
            "tier": str(tier or self.steering.tier),
            "floor": str(self.floor),
            "mode": str(self.mode),
        }

    def effective_tier(self, requested: Tier | str | None = None) -> Tier:
        """Return the tier of a request.

        Args:
            requested: What the request names; without it, the policy's own tier.

        Raises:
            PolicyFloorError: The request names a tier below the floor.
            PolicyFormatError: There is no such tier.
        """
        if requested is None:
            return self.steering.tier
        tier = Tier.named(requested)
        if tier < self.floor:
            raise PolicyFloorError(
                f"the request asks for tier {tier}, the floor of policy {self.id} is "
                f"{self.floor}: ask for {self.floor} or more"
            )
        return tier

    def merge_request(self, asked: Mapping[str, Any]) -> Policy:
        """Return the policy of one request that asks for stricter settings.

        A request may tighten `mode`, `steering`, `timeouts`, `audio`, `text`,
        `history` and `checks`, name any tier from the floor upwards, and choose
        `fallback.locale` and `fallback.ssml`. A floor above the tier raises the tier
        to it.

        Args:
            asked: Some of a policy's settings, as in a file.

        Raises:
            PolicyFloorError: A setting is weaker, or is not for a request to make.
            PolicyFormatError: There is an unknown key or an invalid value.
        """
        if not isinstance(asked, Mapping):
            raise PolicyFormatError(
                f"a request asks for a {type(asked).__name__}: give some of a policy's "
                "settings, as a mapping"
            )
        current = self.to_dict()
        patch = follow_floor(asked, tier=self.steering.tier, floor=self.floor)
        # Whole policies are compared, not what was asked: what follows from a setting
        # is held to the rule too.
        wanted = Policy.build(merge(current, patch), source="what the request asks for")
        check_raises(compare(current, wanted.to_dict()), self.floor)
        return wanted

    def raised(
        self,
        *,
        tier: Tier | str | None = None,
        floor: Tier | str | None = None,
        alpha: float | None = None,
        block_threshold: float | None = None,
    ) -> Policy:
        """Return a stricter policy; what is not given stays.

        Raises:
            PolicyFloorError: A value is weaker than the policy's own.
            PolicyFormatError: A value is invalid.
        """
        given = {
            "tier": None if tier is None else Tier.named(tier).value,
            "floor": None if floor is None else Tier.named(floor).value,
            "alpha": alpha,
            "block_threshold": block_threshold,
        }
        steering = {key: value for key, value in given.items() if value is not None}
        return self.merge_request({"steering": steering})

    def answers_bare(self, now: datetime | None = None) -> bool:
        """Return whether answers are the bare model's at a time.

        Raises:
            PolicyFormatError: The time has no time zone.
        """
        return self.mode is Mode.SHADOW and self.shadow.replies_bare(now)

    def message(self, reason: Reason | str, locale: str | None = None) -> Message:
        """Return the message in place of an answer; see `Fallback.message`."""
        return self.fallback.message(reason, locale)

    def fault_outcome(self, now: datetime | None = None) -> Outcome:
        """Return how a request ends when something beside the model failed.

        Raises:
            PolicyFormatError: The time has no time zone.
        """
        return Outcome.ERROR_OPEN if self.failure.is_open(now) else Outcome.ERROR_CLOSED


def open_policy(name: str) -> Policy:
    """Return the policy of a file's path, or of a preset's name.

    Raises:
        PolicyNotFoundError: There is neither.
        PolicyFormatError: It is not a policy.
        PolicyFloorError: It lowers the floor of what it extends.
    """
    return Policy.load(name) if is_policy_path(name) else Policy.preset(name)


def _load_values(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a file's settings merged over those of what it extends.

    Args:
        path: The file.
        above: The files that extend it, resolved, the outermost first.
    """
    resolved = path.resolve()
    if resolved in above:
        chain = " -> ".join(step.name for step in (*above, resolved))
        raise PolicyFormatError(f"policies extend each other in a circle: {chain}")
    own = read_values(path)
    extended = own.pop("extends", None)
    if extended is None:
        return own
    base = base_path(extended, path)
    values = _load_values(base, (*above, resolved))
    inherited = {key: values[key] for key in values if key not in _NOT_INHERITED}
    floor = Policy.build(inherited, source=str(base)).floor
    _check_floor(own, floor, path, base)
    # The floor is made explicit: left implicit it is the tier, which `own` may raise.
    return merge(merge(inherited, {"steering": {"floor": floor.value}}), own)


def _check_floor(own: Mapping[str, Any], floor: Tier, path: Path, base: Path) -> None:
    """Refuse a file that goes below the floor of what it extends."""
    steering = own.get("steering")
    named = steering if isinstance(steering, Mapping) else {}
    for key in ("floor", "tier"):
        lower = [tier for tier in Tier if tier < floor and tier.value == named.get(key)]
        if lower:
            raise PolicyFloorError(
                f"{path} sets steering.{key} to {lower[0]}, below the floor {floor} of "
                f"{base.name}, which it extends: raise it, or extend a policy with a "
                "lower floor"
            )


def _to_json(values: object, source: str) -> str:
    if not isinstance(values, Mapping):
        raise PolicyFormatError(
            f"{source} is {type(values).__name__}: a policy is a mapping of settings"
        )
    try:
        return json.dumps(dict(values), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise PolicyFormatError(f"{source} is not a policy: {error}") from error


def _plain(value: object) -> object:
    """Return a value given in code as it would stand in a file."""
    if isinstance(value, (Tier, Mode, Reason)):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Section):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be a value in a policy")
