"""Limits on a clip's size, length, channels and sample rate."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

from sarguard.errors import (
    AudioEmptyError,
    AudioFormatError,
    AudioTooLongError,
    AudioTooShortError,
    ConfigurationError,
)

MIN_RATE = 4_000
"""The lowest sample rate taken, in Hz: below it speech is not intelligible."""

MAX_RATE = 384_000
"""The highest sample rate taken, in Hz: a header beyond it is probably damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLimits:
    """Limits of one clip, checked before it is decoded.

    Raises:
        ConfigurationError: if a limit is not a positive number, or if
            `min_seconds` exceeds `max_seconds`.
    """

    max_seconds: float = 30.0
    """The longest clip taken, in seconds."""

    min_seconds: float = 0.1
    """The shortest clip taken, in seconds."""

    max_bytes: int = 64 * 2**20
    """The largest encoded file taken, in bytes."""

    max_channels: int = 8
    """The largest number of channels that are mixed down to one."""

    def __post_init__(self) -> None:
        """Refuse limits that no clip, or every clip, would meet."""
        for name in ("max_seconds", "min_seconds"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigurationError(
                    f"{name} is {value!r}: give a positive, finite number of seconds."
                )
        for name in ("max_bytes", "max_channels"):
            value = getattr(self, name)
            # True is an int in Python, and no limit.
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(
                    f"{name} is {value!r}: give a whole number of at least 1."
                )
        if self.min_seconds > self.max_seconds:
            raise ConfigurationError(
                f"min_seconds ({self.min_seconds:g}) exceeds max_seconds "
                f"({self.max_seconds:g}): no clip could meet both."
            )

    def check_bytes(self, size: int, *, name: str) -> None:
        """Refuse a file larger than `max_bytes`, or an empty one."""
        if size == 0:
            raise AudioEmptyError(
                f"{name} is empty: found 0 bytes. Check that the recording or the "
                "upload finished."
            )
        if size > self.max_bytes:
            raise AudioTooLongError(
                f"{name} is too large: found {size:,} bytes or more, allowed "
                f"{self.max_bytes:,}. Cut it, store it as FLAC, or raise "
                "AudioLimits.max_bytes."
            )

    def check_channels(self, channels: int, *, name: str) -> None:
        """Refuse a clip without channels or with more than `max_channels`."""
        if not 1 <= channels <= self.max_channels:
            raise AudioFormatError(
                f"{name} has {channels} channels, allowed 1 to {self.max_channels}. "
                "Pass the channel that holds the speech."
            )

    def check_length(self, frames: int, rate: int, *, name: str) -> None:
        """Refuse a clip that is empty, too short or too long."""
        seconds = frames / rate
        if frames == 0:
            raise AudioEmptyError(
                f"{name} is empty: found 0 samples. Check that the recording "
                "started before it was stopped."
            )
        if seconds < self.min_seconds:
            raise AudioTooShortError(
                f"{name} is too short: found {seconds:.3f} s ({frames} samples at "
                f"{rate} Hz), at least {self.min_seconds:g} s needed. Record again, "
                "or lower AudioLimits.min_seconds."
            )
        if frames > self.max_frames(rate):
            raise AudioTooLongError(
                f"{name} is too long: found {seconds:.3f} s, allowed "
                f"{self.max_seconds:g} s. Cut it into shorter clips, or raise "
                "AudioLimits.max_seconds if the model hears more."
            )

    def max_frames(self, rate: int) -> int:
        """Return the largest number of samples a channel at `rate` Hz."""
        return math.floor(self.max_seconds * rate)


def check_rate(rate: object, *, name: str) -> int:
    """Return `rate` as an int, or refuse an unusable sample rate."""
    try:
        # Accepts numpy's integers too, which headers and scipy give, and no float.
        found = operator.index(rate)  # type: ignore[arg-type]
    except TypeError as error:
        raise AudioFormatError(
            f"{name} has a sample rate of type {type(rate).__name__}: give the rate "
            "in Hz as an int, such as 16000."
        ) from error
    if not MIN_RATE <= found <= MAX_RATE:
        raise AudioFormatError(
            f"{name} has a sample rate of {found} Hz, allowed {MIN_RATE} to "
            f"{MAX_RATE} Hz. Check the rate, or resample the clip first."
        )
    return found
