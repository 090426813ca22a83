"""Retries of downloads that failed for a reason that may pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from sarguard.logs import get_logger

T = TypeVar("T")

_log = get_logger(__name__)
_ATTEMPTS = 3
# Too slow, too many requests, or a fault of the server: later it may work.
_BUSY = frozenset([408, 429, 500, 502, 503, 504])
# By name: hub clients differ, the names of their connection errors do not.
_OFFLINE = "OfflineModeIsEnabled"
_CONNECTION_ERRORS = frozenset(
    [
        *("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "PoolTimeout"),
        *("RemoteProtocolError", "ChunkedEncodingError", "IncompleteRead"),
    ]
)


def retry_download(load: Callable[[], T]) -> T:
    """Return what `load` returns, retried after a pause if a connection failed."""
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(_ATTEMPTS),
        # At random, so that processes that failed together do not return together.
        wait=wait_random_exponential(multiplier=0.5, max=5),
        before_sleep=_log_retry,
        reraise=True,
    )
    return retrying(load)


def is_transient(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, may pass by itself."""
    causes = list(_causes(error))
    # Offline mode was chosen by the user: waiting does not change it.
    if any(type(cause).__name__ == _OFFLINE for cause in causes):
        return False
    return any(_is_transient(cause) for cause in causes)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in _BUSY or type(error).__name__ in _CONNECTION_ERRORS


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    found: BaseException | None = error
    # Causes may form a circle. The context stands in where a library raised another
    # error without `from`.
    while found is not None and found not in seen:
        seen.append(found)
        yield found
        found = found.__cause__ or found.__context__


def _log_retry(state: RetryCallState) -> None:
    error = None if state.outcome is None else state.outcome.exception()
    _log.warning("download failed, trying again", error=str(error))
