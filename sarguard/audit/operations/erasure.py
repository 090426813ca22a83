"""Erasure of a person's content, or a tenant's, by destroying its keys.

The chain stays valid: records hold pseudonyms and commitments, never the content.
Erasing a session makes its sealed content unreadable. Erasing a tenant also destroys
the secret of its pseudonyms, so that nobody can tell any more whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from sarguard.audit.log import AuditLog
from sarguard.audit.operations.legal_holds import active_holds
from sarguard.audit.privacy.encryption import Sealer
from sarguard.audit.privacy.keyring import Secret
from sarguard.audit.records.ids import new_name
from sarguard.audit.storage.query import Entry, Query
from sarguard.errors import AuditNotFoundError, AuditRecordError
from sarguard.logs import get_logger

_log = get_logger(__name__)
_REQUESTS = ("request_started", "request_finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureResult:
    """What an erasure destroyed."""

    erasure_id: str
    keys: tuple[str, ...]
    contents: int
    """How many sealed pieces became unreadable and were deleted."""
    readable: int
    """How many records keep words in the clear, redacted: they stay as they are."""
    seq: int | None
    """The record of it."""


def erase(
    log: AuditLog,
    sealer: Sealer,
    *,
    tenant: str | None = None,
    session: str | None = None,
    whole_tenant: bool = False,
    reason: str | None = None,
    actor: str | None = None,
) -> ErasureResult:
    """Destroy the keys of a session's content, or all keys of a tenant.

    It is recorded before and after; cut short, it can be done again.

    Args:
        log: the ledger, open for writing.
        sealer: holds the keys and the sealed content.
        tenant: the tenant; None where no tenants are used.
        session: pseudonym of the session to erase.
        whole_tenant: erase everything of the tenant, its pseudonyms' secret too.
        reason: why.
        actor: who asked for it.

    Raises:
        AuditNotFoundError: if the ledger knows nothing of them; nothing is written.
        AuditRecordError: if it does not name exactly one of the two, or a legal hold
            covers it.
        AuditWriteError: if it cannot be recorded; then nothing is destroyed.
    """
    if whole_tenant == (session is not None):
        raise AuditRecordError("name a session to erase, or the whole tenant")
    concerned = [
        s for s in sealer.keyring.secrets() if _is_concerned(s, tenant, session)
    ]
    known = _known_records(log, tenant, session)
    if not concerned and not known:
        what = "nobody" if session is None else "no such session"
        raise AuditNotFoundError(
            f"nothing was erased: the ledger knows {what} {_of_tenant(log, tenant)}"
        )
    _refuse_held(log, tenant, known)
    name = new_name("erase")
    subject = {"erasure_id": name, "tenant": tenant, "session": session}
    # Recorded before anything is destroyed: an erasure must not go unrecorded.
    log.event("erasure_requested", **subject, reason=reason, actor=actor)
    keys = tuple(secret.key_id for secret in concerned)
    sealer.keyring.destroy(keys)
    # Unreadable already; deleting frees the space and keeps backups small.
    contents = sealer.store.delete_of(keys)
    done = log.event("erased", **subject, keys=keys, contents=contents, actor=actor)
    _log.info("audit_erased", erasure_id=name, keys=len(keys), audit_seq=done.seq)
    return ErasureResult(
        erasure_id=name,
        keys=keys,
        contents=contents,
        readable=sum(map(_keeps_words, known)),
        seq=done.seq,
    )


def _known_records(
    log: AuditLog, tenant: str | None, session: str | None
) -> list[Entry]:
    """Return the records of requests of a session, or of a tenant."""
    query = Query(tenant=tenant, containing=session)
    return [
        entry
        for entry in log.search(query, limit=None)
        if entry.values["kind"] in _REQUESTS
        and entry.values.get("tenant") == tenant
        and session in (None, entry.values.get("session"))
    ]


def _keeps_words(entry: Entry) -> bool:
    kept = entry.values.get("content", ())
    return any(content.get("mode") == "redacted" for content in kept)


def _of_tenant(log: AuditLog, tenant: str | None) -> str:
    known = log.reader.tenants()
    named = "without a tenant" if tenant is None else f"of tenant {tenant!r}"
    return f"{named}; its tenants are {', '.join(known) or 'none'}"


def _is_concerned(secret: Secret, tenant: str | None, session: str | None) -> bool:
    if secret.tenant != tenant:
        return False
    return session is None or (
        secret.purpose == "content" and secret.session == session
    )


def _refuse_held(log: AuditLog, tenant: str | None, records: list[Entry]) -> None:
    seqs = [entry.seq for entry in records]
    covering = [hold for hold in active_holds(log) if hold.covers_records(tenant, seqs)]
    if covering:
        names = ", ".join(f"{hold.hold_id} ({hold.reason})" for hold in covering)
        raise AuditRecordError(
            f"nothing was erased: legal hold {names} covers it; lift the hold first"
        )
