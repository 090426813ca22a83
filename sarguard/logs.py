"""Log lines: structured, and through the `logging` module like any library's.

Nothing is configured here, and nothing is written to standard output: where the program
has not configured `logging`, warnings go to standard error, as Python does by default.
The facts of a line are part of its message, `request failed fault=QueueFullError`, and
stand in the record's attribute `sarguard` as they are, for handlers that write JSON.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger
    from structlog.typing import EventDict, WrappedLogger


def get_logger(name: str) -> BoundLogger:
    """Return a logger of structlog whose lines go to `logging.getLogger(name)`."""
    logger: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            _to_record,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger


def _to_record(
    _logger: WrappedLogger, _method: str, line: EventDict
) -> tuple[tuple[str], dict[str, Any]]:
    """Return the arguments of a standard logger's method."""
    event = line.pop("event", "")
    exc_info = line.pop("exc_info", None)
    facts = "".join(f" {name}={value!r}" for name, value in sorted(line.items()))
    extra = {"sarguard": {"event": event, **line}}
    return (f"{event}{facts}",), {"extra": extra, "exc_info": exc_info}
