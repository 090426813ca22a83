"""What a ledger's erasures leave for a client to forget.

Somebody erases a session or a tenant with another process, or with this one's ledger.
The ledger's record of it names the session by its pseudonym: a client finds it among
those of the sessions that it has in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

import structlog

from sarguard.audit.storage.query import Entry, Query
from sarguard.errors import AuditError
from sarguard.guard.recorder import AuditRecorder
from sarguard.serving.forking import renew_in_child
from sarguard.serving.request import SessionName

_log = structlog.get_logger(__name__)


class Erasures:
    """The erasures in a client's ledger; any number of threads may ask at once."""

    def __init__(
        self,
        recorder: AuditRecorder,
        *,
        held: Callable[[], Iterable[SessionName]],
        forget: Callable[[str | None, str], None],
    ) -> None:
        """Heed a ledger's erasures.

        Args:
            recorder: What writes the ledger.
            held: Returns the sessions of which something is in memory.
            forget: Drops what is in memory of one.
        """
        self._recorder = recorder
        self._held = held
        self._forget = forget
        self._seen = 0
        self.begin_anew()
        renew_in_child(self)

    def heed(self) -> int:
        """Forget what was erased; return the number of the last erasure's record.

        No request goes on with an erased session's memory while another forgets it:
        all of them wait here.
        """
        with self._lock:
            erased = self._since(self._seen)
            if erased:
                held = list(self._held())
                for entry in erased:
                    for tenant, session in self._concerned(entry.values, held):
                        self._forget(tenant, session)
                    self._seen = max(self._seen, entry.seq)
            return self._seen

    def forget_again(self, name: SessionName, *, since: int) -> bool:
        """Forget a session that was erased after a request of it came in.

        What the request left in memory came after what `heed` dropped.

        Args:
            name: The session.
            since: What `heed` returned when the request came in.

        Returns:
            Whether it was erased.
        """
        self.heed()
        with self._lock:
            erased = any(
                self._concerned(entry.values, [name]) for entry in self._since(since)
            )
            if erased:
                self._forget(*name)
            return erased

    def begin_anew(self) -> None:
        """Replace the lock, which another thread of a parent may have held."""
        self._lock = threading.Lock()

    def _since(self, seq: int) -> list[Entry]:
        query = Query(kind="erased", first_seq=seq + 1)
        try:
            return list(self._recorder.log.search(query, limit=None))
        except AuditError as error:
            # It is the writing of records that decides whether requests go on.
            _log.warning("erasures_unread", error=str(error))
            return []

    def _concerned(
        self, erased: dict[str, Any], names: Collection[SessionName]
    ) -> list[SessionName]:
        tenant, mark = erased.get("tenant"), erased.get("session")
        found = [name for name in names if name[0] == tenant]
        if mark is None or not found:
            return found
        # All of a tenant's: the secret may have been replaced since.
        secrets = self._recorder.privacy.keyring.all_pseudonyms(tenant)
        return [
            name
            for name in found
            if any(secret.session(name[1]) == mark for _, secret in secrets)
        ]
