"""Logging that costs no caller its reply."""

from __future__ import annotations

import contextlib
from collections.abc import Callable


def log_safely(log: Callable[..., object], event: str, **facts: object) -> None:
    """Log an event through a logger's method; a log that is closed or full is ignored.

    It runs where a reply is about to be handed out: an operational log that cannot be
    written must not turn an answer into an error.
    """
    with contextlib.suppress(Exception):
        log(event, **facts)
