"""Look-up of a caller's records from a recording, a text or a name.

The ledger holds no sound and no names. Whoever has the keys can make the pseudonyms
again and look for them, under every secret that a tenant has had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sarguard.audit.log import AuditLog
from sarguard.audit.privacy.keyring import Keyring
from sarguard.audit.privacy.pseudonyms import Pseudonyms
from sarguard.audit.storage.query import Entry, Query
from sarguard.errors import AuditNotFoundError
from sarguard.logs import get_logger

SAMPLE_RATE = 16_000
"""Rate in Hz that most models take, and that most pseudonyms are made at."""

_log = get_logger(__name__)

MakePseudonym = Callable[[Pseudonyms], str]
"""A function that makes the pseudonym of one subject under one secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupResult:
    """Records that were found, and the pseudonyms that were looked for."""

    entries: tuple[Entry, ...]
    pseudonyms: tuple[str, ...]


def audio_pseudonym(
    clip: str | Path, *, sample_rate: int = SAMPLE_RATE
) -> MakePseudonym:
    """Return a function that makes a recording's pseudonym, as a model heard it.

    The recording must be the file that came in, or one with the same samples.
    Another recording of the same words has another pseudonym.

    Args:
        clip: an audio file.
        sample_rate: the rate of the model, in Hz.

    Raises:
        AudioError: if it cannot be read.
    """
    from sarguard.audio import AudioLimits, load_audio

    limits = AudioLimits(max_seconds=24 * 3600, max_bytes=2**32)
    samples = load_audio(clip, sample_rate=sample_rate, limits=limits)
    return lambda pseudonyms: pseudonyms.audio(samples, sample_rate)


def lookup(
    log: AuditLog,
    keyring: Keyring,
    make: MakePseudonym,
    *,
    tenant: str | None = None,
    every_tenant: bool = False,
) -> LookupResult:
    """Return the records that hold a pseudonym, oldest first.

    Args:
        log: the ledger.
        keyring: the tenants' secrets.
        make: makes the pseudonym under one secret.
        tenant: the tenant whose records are wanted; ignored with `every_tenant`.
        every_tenant: look under the secrets of all tenants.

    Raises:
        AuditNotFoundError: if there is no secret to make a pseudonym with.
    """
    secrets = keyring.all_pseudonyms(tenant, every=every_tenant)
    if not secrets:
        raise AuditNotFoundError(
            f"{keyring.path} holds no key for marks"
            + ("" if every_tenant else f" of tenant {tenant!r}")
            + ": name the tenant and the file of keys, or its key was destroyed"
        )
    wanted = [(owner, make(pseudonyms)) for owner, pseudonyms in secrets]
    found = {entry.seq: entry for entry in _search(log, wanted)}
    return LookupResult(
        entries=tuple(found[seq] for seq in sorted(found)),
        pseudonyms=tuple(pseudonym for _, pseudonym in wanted),
    )


def record_access(
    log: AuditLog, action: str, found: LookupResult, *, actor: str | None, query: str
) -> None:
    """Record that a person looked something up; never what they looked for."""
    done = log.event(
        "accessed",
        action=action,
        actor=actor,
        query=query,
        mark=found.pseudonyms[-1] if found.pseudonyms else None,
        found=len(found.entries),
    )
    _log.info("audit_accessed", action=action, audit_seq=done.seq)


def _search(log: AuditLog, wanted: list[tuple[str | None, str]]) -> Iterator[Entry]:
    for tenant, pseudonym in wanted:
        query = Query(tenant=tenant, containing=pseudonym)
        for entry in log.search(query, limit=None):
            # Records of earlier look-ups hold the pseudonym too.
            if entry.record.kind.startswith("request_"):
                yield entry
