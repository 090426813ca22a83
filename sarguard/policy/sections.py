"""The parts of a policy, each with defaults that fail closed."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from sarguard.audio.limits import AudioLimits
from sarguard.policy.section import Number, Seconds, Section, Words, as_utc
from sarguard.policy.tiers import Tier

MIN_RETENTION_DAYS = 183
"""Half a year: the minimum, unless a policy sets its own `floor_days`."""

MAX_DECISION_TOKENS = 1024
"""Tokens that are chosen greedily at the most."""


class Mode(StrEnum):
    """Whether blocks are enforced. Steering is on in both modes, but see `Shadow`."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Steering(Section):
    """How strongly answers are steered, and which requests are blocked."""

    tier: Tier = Tier.BALANCED
    """Operating point of a request that names none."""
    floor: Tier | None = None
    """Lowest tier that a request may name; without it, the tier."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Lowest steering coefficient of every answer, in the bundle's units. The larger
    of it and the tier's applies."""
    block_threshold: (
        Annotated[float, Field(allow_inf_nan=False)] | Literal["tier", "never"]
    ) = "tier"
    """Gate score from which nothing is answered: the tier's own, a number (0 is
    undecided, 1 a typical harmful request), or never."""
    decision_tokens: Annotated[int, Field(ge=0, le=MAX_DECISION_TOKENS)] = 32
    """Tokens at the beginning of an answer that are chosen greedily, unless the request
    looks harmless: refusal and answer part in them, and sampling undoes steering."""
    max_temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """The highest temperature that answers are sampled at; a request that asks for more
    gets this one. 0 makes every answer greedy."""

    @model_validator(mode="after")
    def _check_floor(self) -> Steering:
        if self.floor is not None and self.tier < self.floor:
            raise ValueError(
                f"tier {self.tier} is below floor {self.floor}: raise the tier, or "
                "lower the floor"
            )
        return self

    @property
    def lowest_tier(self) -> Tier:
        """Return the floor, which is the tier where none is set."""
        return self.tier if self.floor is None else self.floor

    def temperature_for(self, requested: float) -> float:
        """Return the temperature of an answer, given the one that was asked for."""
        if self.max_temperature is None:
            return requested
        return min(requested, self.max_temperature)

    def alpha_for(self, tier_alpha: float) -> float:
        """Return the steering coefficient, given the one that a tier decided on."""
        return tier_alpha if self.alpha is None else max(tier_alpha, self.alpha)

    def block_score(self, tier_score: float | None) -> float | None:
        """Return the score from which to block, given the tier's; None is never."""
        if self.block_threshold == "tier":
            return tier_score
        return None if self.block_threshold == "never" else self.block_threshold


class Failure(Section):
    """What happens when something fails."""

    on_fault: Literal["closed", "open"] = "closed"
    """`closed`: no answer. `open`: where something beside the model failed, the
    steered answer is let out, as `error_open`. An answer whose steering cannot be
    proven is thrown away in either case."""
    open_reason: Words | None = None
    """Why failing open is acceptable; needed with `open`."""
    open_until: Annotated[AwareDatetime, AfterValidator(as_utc)] | None = None
    """When failing open ends, with its time zone; needed with `open`."""

    @model_validator(mode="after")
    def _check_open(self) -> Failure:
        given = self.open_reason is not None, self.open_until is not None
        if self.on_fault == "open" and not all(given):
            raise ValueError(
                "on_fault is open: give open_reason and open_until, or fail closed"
            )
        if self.on_fault == "closed" and any(given):
            raise ValueError(
                "open_reason and open_until only belong to on_fault: open; remove them"
            )
        return self

    def is_open(self, now: datetime | None = None) -> bool:
        """Return whether an answer is let out in spite of a fault, at a time.

        Raises:
            PolicyFormatError: The time has no time zone.
        """
        if self.on_fault == "closed" or self.open_until is None:
            return False
        # Asked for each request: failing open ends by itself, without a restart.
        return as_utc(now) < self.open_until


class Shadow(Section):
    """What a caller gets while the policy's mode is `shadow`."""

    reply: Literal["steered", "bare"] = "steered"
    """`bare`: the answer of the model as it is, for a comparison with what was before
    the guard; each record says so. The one way to an answer that is not steered."""
    bare_reason: Words | None = None
    """Why bare answers are acceptable; needed with `bare`."""
    bare_until: Annotated[AwareDatetime, AfterValidator(as_utc)] | None = None
    """When they end, with its time zone; needed with `bare`. From then on answers are
    steered."""

    @model_validator(mode="after")
    def _check_bare(self) -> Shadow:
        given = self.bare_reason is not None, self.bare_until is not None
        if self.reply == "bare" and not all(given):
            raise ValueError(
                "reply is bare: give bare_reason and bare_until, or reply steered"
            )
        if self.reply == "steered" and any(given):
            raise ValueError(
                "bare_reason and bare_until only belong to reply: bare; remove them"
            )
        return self

    def replies_bare(self, now: datetime | None = None) -> bool:
        """Return whether answers are bare at a time.

        Raises:
            PolicyFormatError: The time has no time zone.
        """
        if self.reply == "steered" or self.bare_until is None:
            return False
        # Asked for each request, as for failing open.
        return as_utc(now) < self.bare_until


class Timeouts(Section):
    """Limits on how long a request may take, in seconds."""

    total_s: Seconds = 60.0
    """From the call to the end of the reply."""
    first_token_s: Seconds | None = None
    """From the call to the first token; None leaves it to `total_s`."""
    queue_s: Seconds = 30.0
    """Waiting for a turn."""


class AudioBounds(Section):
    """Limits on the clips of a request."""

    max_seconds: Seconds = 30.0
    """The longest clip; the model's own limit may be lower."""
    min_seconds: Seconds = 0.1
    max_bytes: Number = 64 * 2**20
    max_channels: Number = 8
    max_clips: Number = 4
    """The most clips of one request."""

    @model_validator(mode="after")
    def _check_lengths(self) -> AudioBounds:
        if self.min_seconds > self.max_seconds:
            raise ValueError(
                f"min_seconds {self.min_seconds:g} exceeds max_seconds "
                f"{self.max_seconds:g}: no clip could meet both"
            )
        return self

    def limits(self, model_seconds: float | None = None) -> AudioLimits:
        """Return the limits of one clip.

        Args:
            model_seconds: The longest clip that the model takes whole, in seconds.
        """
        max_seconds = self.max_seconds
        if model_seconds is not None:
            max_seconds = min(max_seconds, model_seconds)
        return AudioLimits(
            max_seconds=max_seconds,
            # A model may take less than the policy's minimum, and limits have to agree.
            min_seconds=min(self.min_seconds, max_seconds),
            max_bytes=self.max_bytes,
            max_channels=self.max_channels,
        )


class TextBounds(Section):
    """Limits on the text of a request and of its answer."""

    max_chars: Number = 32_000
    """Characters of the request's text, its system prompt and its history."""
    max_new_tokens: Number = 512
    """Tokens of the answer."""


class History(Section):
    """Limits on the earlier turns of a conversation, and what becomes of the rest."""

    max_turns: Number = 240
    """Turns of the user and of the assistant before the newest one."""
    max_seconds: Seconds = 1200.0
    """Sound of these turns, in seconds."""
    max_tokens: Number | None = None
    """Prompt tokens of the whole request; without it, what the model's context leaves
    beside the answer. More than that never reaches the model."""
    when_exceeded: Literal["trim", "refuse"] = "trim"
    """`trim`: the oldest exchanges leave the prompt, and the reply says how many turns
    did; `refuse`: there is no answer. Nothing is ever summarised."""
    reuse: bool = True
    """Whether what the model computed for a session's earlier turns is kept in memory
    for its next ones."""


class Audit(Section):
    """What the ledger holds, and what happens without it."""

    required: bool = True
    """Whether nothing is answered without a ledger."""
    content: Literal["none", "redacted", "encrypted"] = "none"
    """What is kept of sound and words: nothing but pseudonyms and lengths; text with
    personal data redacted; or everything, encrypted under keys that can be
    destroyed."""
    on_write_failure: Literal["block", "spool", "degrade"] = "block"
    """When a record cannot be written: no answer; an answer while a bounded spool
    holds the record; or an answer without a record, and a critical line in the log."""
    spool_records: Number = 1000
    """The most records that wait in the spool."""
    checkpoint_records: Number = 100
    """Records after which the ledger is signed."""
    checkpoint_seconds: Seconds = 60.0
    """Seconds after which the ledger is signed."""


class Retention(Section):
    """How long records are kept."""

    days: Number = 365
    floor_days: Number = MIN_RETENTION_DAYS
    """The least that `days` may be."""
    legal_hold: bool = False
    """Whether nothing is deleted, whatever its age."""

    @model_validator(mode="after")
    def _check_days(self) -> Retention:
        if self.days < self.floor_days:
            raise ValueError(
                f"records are kept for {self.days} days, the minimum is "
                f"{self.floor_days}: keep them longer, or set floor_days as well"
            )
        return self


class OverrideRules(Section):
    """Whether and how a person may override this policy for a while."""

    allowed: bool = True
    longest_hours: Annotated[float, Field(gt=0, le=24 * 31)] = 24.0
    """The longest duration of an override."""
    second_person: bool = False
    """Whether somebody else has to approve it."""
