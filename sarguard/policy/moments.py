"""Moments that say which time they mean."""

from __future__ import annotations

from datetime import UTC, datetime

from sarguard.errors import PolicyFormatError


def check_moment(now: datetime | None) -> datetime:
    """Return a moment in UTC: the one given, or the present.

    Raises:
        PolicyFormatError: The moment has no time zone.
    """
    if now is None:
        return datetime.now(UTC)
    if now.utcoffset() is None:
        raise PolicyFormatError(
            f"{now.isoformat()} has no time zone: nobody can tell when that is. Use "
            "datetime.now(timezone.utc)"
        )
    return now.astimezone(UTC)


def write_moment(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC, with six decimals and a Z."""
    return check_moment(moment).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
