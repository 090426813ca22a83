"""What a ledger's erasures leave for a client to forget.

Somebody erases a session or a tenant with another process, or with this one's ledger.
The ledger's record of it names the session by its pseudonym: a client finds it among
those of the sessions that it has in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeAlias

import structlog

from sarguard.audit.storage.query import Query
from sarguard.errors import AuditError
from sarguard.guard.recorder import AuditRecorder

_log = structlog.get_logger(__name__)
_MAX_SESSIONS = 20_000
"""More than a client keeps anything of."""

Session: TypeAlias = tuple[str | None, str]
"""A tenant and one of its sessions, as requests name them."""


class Erasures:
    """The erasures in a client's ledger; any number of threads may ask at once."""

    def __init__(self, recorder: AuditRecorder) -> None:
        self._recorder = recorder
        self._lock = threading.Lock()
        self._seen = 0
        # Each with its pseudonym, the one that was used last at the end.
        self._sessions: OrderedDict[Session, str] = OrderedDict()

    def note(self, tenant: str | None, session: str) -> None:
        """Take a session among those of which something may be in memory."""
        name = (tenant, session)
        mark = self._recorder.privacy.pseudonyms(tenant).session(session)
        with self._lock:
            self._sessions[name] = mark
            self._sessions.move_to_end(name)
            while len(self._sessions) > _MAX_SESSIONS:
                self._sessions.popitem(last=False)

    def collect(self) -> list[Session]:
        """Return the noted sessions that were erased since the last call."""
        with self._lock:
            query = Query(kind="erased", first_seq=self._seen + 1)
            found: list[Session] = []
            try:
                for entry in self._recorder.log.search(query, limit=None):
                    self._seen = max(self._seen, entry.seq)
                    found += self._concerned(entry.values)
            except AuditError as error:
                # It is the writing of records that decides whether requests go on.
                _log.warning("erasures_unread", error=str(error))
            for name in found:
                self._sessions.pop(name, None)
            return found

    def _concerned(self, erased: dict[str, object]) -> list[Session]:
        tenant, mark = erased.get("tenant"), erased.get("session")
        return [
            name
            for name, own in self._sessions.items()
            if name[0] == tenant and mark in (None, own)
        ]
