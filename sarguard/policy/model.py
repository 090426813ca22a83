"""The policy: what has to hold for every answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from sarguard.errors import PolicyFloorError, PolicyFormatError
from sarguard.policy.canonical import canonical_digest, canonical_json
from sarguard.policy.explaining import explain
from sarguard.policy.fallback import Fallback, Message
from sarguard.policy.merging import check_raises, follow_floor, merge
from sarguard.policy.messages import Reason
from sarguard.policy.section import Name, Number, Section
from sarguard.policy.sections import (
    AudioBounds,
    Audit,
    Failure,
    Mode,
    OverrideRules,
    Retention,
    Shadow,
    Steering,
    TextBounds,
    Timeouts,
)
from sarguard.policy.strictness import compare
from sarguard.policy.tiers import Tier
from sarguard.types import Outcome

if TYPE_CHECKING:
    import os

UNNAMED = "unnamed"


class Policy(Section):
    """State what has to hold for every answer; frozen, and checked when built.

    Build one in code, or read it with `Policy.load` or `Policy.preset`.
    """

    api_version: Literal["sarguard/v1"] = "sarguard/v1"
    """Version of this format."""
    id: Name = UNNAMED
    """The policy's name in records."""
    version: Number = 1
    """Counted up by its author with each change."""
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
        from sarguard.policy.loading import load_policy

        return load_policy(Path(path))

    @classmethod
    def preset(cls, name: str) -> Policy:
        """Return a policy that ships with the library.

        Raises:
            PolicyNotFoundError: There is no such preset.
        """
        from sarguard.policy.loading import load_preset

        return load_preset(name)

    @classmethod
    def build(cls, values: Mapping[str, Any], *, source: str = "the mapping") -> Policy:
        """Check plain values, as they stand in a file, and return their policy.

        Values are taken as they are: "30" is no number, and 1 is not true.

        Raises:
            PolicyFormatError: They are not a policy; the message lists every problem.
        """
        written = _written(values, source)
        try:
            return cls.model_validate_json(written, strict=True)
        except ValidationError as error:
            raise explain(error, cls, source) from error

    @property
    def digest(self) -> str:
        """Return `sha256:` and the digest of the policy's canonical JSON.

        It is the same for any order of keys and any formatting of the file.
        """
        return canonical_digest(self.to_dict())

    @property
    def floor(self) -> Tier:
        """Return the least tier that a request may name."""
        return self.steering.least_tier

    def to_dict(self) -> dict[str, Any]:
        """Return every setting as plain values, defaults and floor included."""
        plain = self.model_dump(mode="json")
        plain["steering"]["floor"] = self.floor.value
        return plain

    def canonical(self) -> str:
        """Return the canonical JSON that the digest is taken of."""
        return canonical_json(self.to_dict())

    def facts(self, tier: Tier | None = None) -> dict[str, str]:
        """Return what a record says of the policy.

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
        """Return the policy of one request that asks for more.

        A request may ask for more in `mode`, `steering`, `timeouts`, `audio` and
        `text`, name any tier from the floor upwards, and choose `fallback.locale` and
        `fallback.ssml`. A floor above the tier takes the tier with it.

        Args:
            asked: Some of a policy's settings, as they stand in a file.

        Raises:
            PolicyFloorError: Something asked for is less, or not for requests.
            PolicyFormatError: There is an unknown key or a senseless value.
        """
        if not isinstance(asked, Mapping):
            raise PolicyFormatError(
                f"a request asks for {type(asked).__name__}: give some of a policy's "
                "settings, as a mapping"
            )
        now = self.to_dict()
        patch = follow_floor(asked, tier=self.steering.tier, floor=self.floor)
        wanted = Policy.build(merge(now, patch), source="what the request asks for")
        check_raises(compare(now, wanted.to_dict()), self.floor)
        return wanted

    def raised(
        self,
        *,
        tier: Tier | str | None = None,
        floor: Tier | str | None = None,
        alpha: float | None = None,
        block_threshold: float | None = None,
    ) -> Policy:
        """Return a policy that holds more; what is not given stays.

        Raises:
            PolicyFloorError: Something given is less than what holds.
            PolicyFormatError: A value makes no sense.
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
        """Return whether answers are the bare model's at this moment.

        Raises:
            PolicyFormatError: The moment has no time zone.
        """
        return self.mode is Mode.SHADOW and self.shadow.bares(now)

    def message(self, reason: Reason | str, locale: str | None = None) -> Message:
        """Return what is said in place of an answer; see `Fallback.message`."""
        return self.fallback.message(reason, locale)

    def fault_outcome(self, now: datetime | None = None) -> Outcome:
        """Return how a request ends when something beside the model failed.

        Raises:
            PolicyFormatError: The moment has no time zone.
        """
        return Outcome.ERROR_OPEN if self.failure.opens(now) else Outcome.ERROR_CLOSED


def _written(values: object, source: str) -> str:
    if not isinstance(values, Mapping):
        raise PolicyFormatError(
            f"{source} is {type(values).__name__}: a policy is a mapping of settings"
        )
    try:
        return json.dumps(dict(values), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise PolicyFormatError(f"{source} is not a policy: {error}") from error


def _plain(value: object) -> object:
    """Give the values of code the form that they have in a file."""
    if isinstance(value, (Tier, Mode, Reason)):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Section):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} does not belong in a policy")
