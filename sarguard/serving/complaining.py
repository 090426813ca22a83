"""Saying in the log what went wrong, whether or not the log can be written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

Say = Callable[..., object]
"""A bound method of a logger, such as `log.error`."""


def complain(say: Say, event: str, **facts: object) -> None:
    """Log an event; a log that is closed or full costs no caller its reply."""
    with contextlib.suppress(Exception):
        say(event, **facts)
