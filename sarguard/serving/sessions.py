"""What the engine keeps between the requests of a session, within bounds.

It lives in memory alone. A session is known by its tenant's name and its own together,
so that equal names of two tenants are two sessions, and a request without a session
keeps nothing.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sarguard.decoding.session_memory import SessionMemory
from sarguard.errors import ConfigurationError
from sarguard.serving.forking import renew_in_child
from sarguard.serving.request import SessionName

_LEAST_WAIT_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How much is kept between requests, and for how long.

    Raises:
        ConfigurationError: A limit is negative.
    """

    max_bytes: int = 512 * 2**20
    """Bytes of tensors over all sessions; 0 keeps nothing."""
    max_sessions: int = 256
    max_idle_s: float = 1800.0
    """Seconds after its last request at which a session is dropped."""

    def __post_init__(self) -> None:
        """Refuse limits that nothing could meet."""
        for name in ("max_bytes", "max_sessions", "max_idle_s"):
            # Negated, so that NaN is refused too.
            if not getattr(self, name) >= 0:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)!r}: give 0 or more"
                )


class SessionStore:
    """The memories of the sessions that asked last.

    Any thread may call it. A memory that is dropped while a request uses it stays with
    that request and goes when it ends.
    """

    def __init__(
        self,
        limits: SessionLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or SessionLimits()
        self._clock = clock
        # The timer that runs, if any. A list that outlives this object, to cancel it.
        self._timers: list[threading.Timer] = []
        weakref.finalize(self, _cancel, self._timers)
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self) -> None:
        """Keep nothing yet; a forked child keeps nothing of its parent's sessions."""
        self._lock = threading.Lock()
        # A parent's timers do not run in its children.
        self._timers.clear()
        # The last used is the last.
        self._kept: OrderedDict[SessionName, tuple[SessionMemory, float]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def open(self, tenant: str | None, session: str) -> SessionMemory:
        """Return what is kept of a session; nothing yet for a new one."""
        with self._lock:
            self._drop_idle()
            memory, _ = self._kept.pop((tenant, session), (SessionMemory(), 0.0))
            self._kept[tenant, session] = memory, self._clock()
            self._wait()
            return memory

    def settle(self) -> None:
        """Drop what is beyond the limits, the least recently used first."""
        with self._lock:
            self._drop_idle()
            sizes = {name: memory.size for name, (memory, _) in self._kept.items()}
            total = sum(sizes.values())
            for name, size in sizes.items():
                most = self._limits.max_sessions
                if total <= self._limits.max_bytes and len(self._kept) <= most:
                    return
                del self._kept[name]
                total -= size

    def forget(self, tenant: str | None, session: str) -> None:
        """Drop what is kept of a session."""
        with self._lock:
            self._kept.pop((tenant, session), None)

    def names(self) -> list[SessionName]:
        """Return the sessions of which something is kept."""
        with self._lock:
            return list(self._kept)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            _cancel(self._timers)

    def _wait(self) -> None:
        """See that what is idle is dropped in time, whether anyone asks or not."""
        if self._timers or not self._kept:
            return
        _, used = next(iter(self._kept.values()))
        wait = max(_LEAST_WAIT_S, used + self._limits.max_idle_s - self._clock())
        # It does not keep a store alive that nobody holds any more.
        timer = threading.Timer(wait, _drop_waiting, (weakref.ref(self),))
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _drop_waiting(self) -> None:
        with self._lock:
            # One that was cancelled too late has another in its place.
            if threading.current_thread() in self._timers:
                self._timers.clear()
                self._drop_idle()
                self._wait()

    def _drop_idle(self) -> None:
        oldest = self._clock() - self._limits.max_idle_s
        for name, (_, used) in list(self._kept.items()):
            if used >= oldest:
                return
            del self._kept[name]


def _drop_waiting(store: weakref.ref[SessionStore]) -> None:
    found = store()
    if found is not None:
        found._drop_waiting()


def _cancel(timers: list[threading.Timer]) -> None:
    for timer in timers:
        timer.cancel()
    timers.clear()
