"""Find a caller's records from a recording, a text or a name, for who may ask.

The ledger holds no sound and no names. Whoever has the keys can make the marks again
and look for them, under every secret that a tenant has had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from sarguard.audit.log import AuditLog
from sarguard.audit.privacy.keyring import Keyring
from sarguard.audit.privacy.pseudonyms import Marks
from sarguard.audit.storage.query import Entry, Query
from sarguard.errors import AuditNotFoundError

SAMPLE_RATE = 16_000
"""The rate, in Hz, that most models hear at, so that most marks are made at."""

_log = structlog.get_logger(__name__)

MakeMark = Callable[[Marks], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Hold what was found, and the marks that were looked for."""

    entries: tuple[Entry, ...]
    marks: tuple[str, ...]


def mark_of_audio(clip: str | Path, *, sample_rate: int = SAMPLE_RATE) -> MakeMark:
    """Return what makes a recording's mark, as a model heard it.

    The recording must be the file that came in, or one with the same samples.
    Another recording of the same words has another mark.

    Args:
        clip: an audio file.
        sample_rate: the rate of the model, in Hz.

    Raises:
        AudioError: if it cannot be read.
    """
    from sarguard.audio import AudioLimits, load_audio

    limits = AudioLimits(max_seconds=24 * 3600, max_bytes=2**32)
    samples = load_audio(clip, sample_rate=sample_rate, limits=limits)
    return lambda marks: marks.audio(samples, sample_rate)


def lookup(
    log: AuditLog,
    keyring: Keyring,
    make: MakeMark,
    *,
    tenant: str | None = None,
    every_tenant: bool = False,
) -> Found:
    """Return the records that hold a mark, oldest first.

    Args:
        log: the ledger.
        keyring: the tenants' secrets.
        make: makes the mark under one secret.
        tenant: whose records; with `every_tenant`, it is not asked for.
        every_tenant: look under the secrets of all tenants.

    Raises:
        AuditNotFoundError: if there is no secret to make a mark with.
    """
    secrets = keyring.all_marks(tenant, every=every_tenant)
    if not secrets:
        raise AuditNotFoundError(
            f"{keyring.path} holds no key for marks"
            + ("" if every_tenant else f" of tenant {tenant!r}")
            + ": name the tenant and the file of keys, or its key was destroyed"
        )
    wanted = [(owner, make(marks)) for owner, marks in secrets]
    found = {entry.seq: entry for entry in _search(log, wanted)}
    return Found(
        entries=tuple(found[seq] for seq in sorted(found)),
        marks=tuple(mark for _, mark in wanted),
    )


def record_access(
    log: AuditLog, action: str, found: Found, *, actor: str | None, query: str
) -> None:
    """Record that a person looked something up; never what it was made of."""
    newest = found.marks[-1] if found.marks else None
    done = log.event(
        "accessed",
        action=action,
        actor=actor,
        query=query,
        mark=newest,
        found=len(found.entries),
    )
    _log.info("audit_accessed", action=action, audit_seq=done.seq)


def _search(log: AuditLog, wanted: list[tuple[str | None, str]]) -> Iterator[Entry]:
    for tenant, mark in wanted:
        for entry in log.search(Query(tenant=tenant, containing=mark), limit=None):
            if entry.record.kind.startswith("request_"):
                yield entry
