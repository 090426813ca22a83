"""What a ledger's erasures leave for a client to forget.

Somebody erases a session or a tenant with another process, or with this one's ledger.
The ledger's record of it names the session by its pseudonym: a client finds it among
those of the sessions that it has in memory.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

from sarguard.audit.privacy.pseudonyms import Pseudonyms
from sarguard.audit.storage.query import Entry, Query
from sarguard.errors import AuditError
from sarguard.guard.recorder import AuditRecorder
from sarguard.logs import get_logger
from sarguard.serving.forking import renew_in_child
from sarguard.serving.request import SessionName

_log = get_logger(__name__)

_Secrets: TypeAlias = "list[Pseudonyms] | None"
"""What a tenant's pseudonyms are made with; None where that cannot be read."""


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
            self._heed()
            return self._seen

    def settle(
        self, name: SessionName, *, since: int, keep: Callable[[], None]
    ) -> None:
        """Keep something of a session, unless it was erased since a request came in.

        Then it is forgotten once more: what the request left in memory came after what
        `heed` dropped. The same where the ledger cannot be read.

        Args:
            name: The session.
            since: What `heed` returned when the request came in.
            keep: Keeps it.
        """
        with self._lock:
            self._heed()
            erased = self._since(since)
            if erased is None or self._concern(erased, name, {}):
                self._forget(*name)
            else:
                # Under the lock: an erasure that comes now is heeded afterwards.
                keep()

    def _heed(self) -> None:
        secrets: dict[str | None, _Secrets] = {}
        for entry in self._since(self._seen) or ():
            for name in self._held():
                if self._concern([entry], name, secrets):
                    self._forget(*name)
            # Only now: what fails on the way is tried again by the next request.
            self._seen = entry.seq

    def begin_anew(self) -> None:
        """Replace the lock, which another thread of a parent may have held."""
        self._lock = threading.Lock()

    def _since(self, seq: int) -> list[Entry] | None:
        """Return the erasures after a record, oldest first; None if unreadable."""
        query = Query(kind="erased", first_seq=seq + 1)
        try:
            found = list(self._recorder.log.search(query, limit=None))
        except AuditError as error:
            # It is the writing of records that decides whether requests go on.
            _log.warning("erasures_unread", error=str(error))
            return None
        return sorted(found, key=lambda entry: entry.seq)

    def _concern(
        self,
        erased: Iterable[Entry],
        name: SessionName,
        secrets: dict[str | None, _Secrets],
    ) -> bool:
        """Return whether some erasures concern a session; in doubt they do.

        Args:
            erased: Their entries.
            name: The session.
            secrets: Those of tenants that were asked about, read once for all sessions.
        """
        tenant, session = name
        try:
            for entry in erased:
                values = entry.values
                if values.get("tenant") != tenant:
                    continue
                if values.get("session") is None:
                    return True
                if tenant not in secrets:
                    secrets[tenant] = self._secrets(tenant)
                known = secrets[tenant]
                if known is None:
                    return True
                if values["session"] in {secret.session(session) for secret in known}:
                    return True
        except AuditError as error:
            _log.warning("erasure_unread", error=type(error).__name__)
            return True
        return False

    def _secrets(self, tenant: str | None) -> _Secrets:
        try:
            # All of a tenant's: the secret may have been replaced since.
            found = self._recorder.privacy.keyring.all_pseudonyms(tenant)
        except (AuditError, sqlite3.Error) as error:
            _log.warning("erasure_unread", error=type(error).__name__)
            return None
        return [secret for _, secret in found]
