"""The records of what happens around requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sarguard.audit.records.fields import (
    Code,
    Count,
    Digest,
    FaultRef,
    Hash,
    Header,
    ModelRef,
    Moment,
    Name,
    PolicyRef,
    Pseudonym,
    Seq,
    SteeringRef,
    Text,
)


class LogOpened(Header):
    """First record of a ledger."""

    kind: Literal["log_opened"] = "log_opened"
    origin: Name
    """The name under which checkpoints are signed."""
    key: Text
    """The first public key, as a C2SP verifier key."""
    library: Name
    """The version of the library that made the ledger."""


class WriterOpened(Header):
    """Record that a process began to write."""

    kind: Literal["writer_opened"] = "writer_opened"
    library: Name


class WriterClosed(Header):
    """Record that a process stopped writing in good order."""

    kind: Literal["writer_closed"] = "writer_closed"


class LogRecovered(Header):
    """Record of something unusual that the ledger recovered from."""

    kind: Literal["log_recovered"] = "log_recovered"
    cause: Code
    """`clock_moved_back`, `spool_drained`, `torn_spool` ..."""
    count: Count = 0
    """Microseconds for a clock, records or bytes for a spool."""
    detail: Text | None = None
    digest: Hash | None = None


class AuditDegraded(Header):
    """Record that requests went unrecorded because the policy allowed it."""

    kind: Literal["audit_degraded"] = "audit_degraded"
    cause: Code
    unrecorded: Count
    since: Moment
    until: Moment


class MirrorFailed(Header):
    """Record that a checkpoint could not be copied to its second place."""

    kind: Literal["mirror_failed"] = "mirror_failed"
    size: Count
    fault: FaultRef


class KeyRotated(Header):
    """Record of a new signing key; both keys sign the statement."""

    kind: Literal["key_rotated"] = "key_rotated"
    old_key: Text
    new_key: Text
    statement: Text
    old_signature: Text
    new_signature: Text


class SegmentSealed(Header):
    """Record that closes a segment; it is the first record of the next one."""

    kind: Literal["segment_sealed"] = "segment_sealed"
    origin: Name
    key: Text
    """The key that signs from here on: the first record may be gone one day."""
    segment: Seq
    first_seq: Seq
    last_seq: Seq
    first_time: Moment
    last_time: Moment
    tree_root: Hash
    """Root of the whole ledger's tree at `last_seq`."""


class RetentionTombstone(Header):
    """Record in place of the records of a sealed segment that retention deleted."""

    kind: Literal["retention_tombstone"] = "retention_tombstone"
    segment: Seq
    first_seq: Seq
    last_seq: Seq
    first_time: Moment
    last_time: Moment
    tree_root: Hash
    keys: tuple[Text, ...]
    """The keys that signed while the segment was open."""
    retention_days: Count
    reason: Text
    actor: Name | None = None


class HoldChanged(Header):
    """Record that a legal hold was placed or lifted."""

    kind: Literal["hold_changed"] = "hold_changed"
    action: Literal["placed", "lifted"]
    hold_id: Name
    reason: Text
    actor: Name
    first_seq: Seq | None = None
    last_seq: Seq | None = None
    tenant: Name | None = None


class ModelLoaded(Header):
    """Record that a model was loaded."""

    kind: Literal["model_loaded"] = "model_loaded"
    model: ModelRef
    seconds: Annotated[float, Field(ge=0)] | None = None


class SteeringAttached(Header):
    """Record that steering was attached to a model."""

    kind: Literal["steering_attached"] = "steering_attached"
    model: ModelRef
    steering: SteeringRef


class IntegrityFailed(Header):
    """Record that steering could not be proven, or was found changed."""

    kind: Literal["integrity_failed"] = "integrity_failed"
    what: Code
    expected: Text | None = None
    found: Text | None = None
    request: Name | None = None


class PolicyLoaded(Header):
    """Record of a policy, in full, when it is first used."""

    kind: Literal["policy_loaded"] = "policy_loaded"
    policy: PolicyRef
    body: str | None = None
    """The policy's canonical JSON."""


class PolicyChanged(Header):
    """Record that one policy replaced another."""

    kind: Literal["policy_changed"] = "policy_changed"
    policy: PolicyRef
    previous: PolicyRef
    changes: tuple[Text, ...] = ()
    body: str | None = None
    actor: Name | None = None


class PolicyOverridden(Header):
    """Record of an exception from a policy: its reason, and when it expires."""

    kind: Literal["policy_overridden"] = "policy_overridden"
    policy: PolicyRef
    field: Name
    value: Text
    reason: Text
    actor: Name
    approver: Name | None = None
    expires: Moment
    override_id: Name | None = None


class Reviewed(Header):
    """Record of a reviewer's judgement of a request; later ones do not erase it."""

    kind: Literal["reviewed"] = "reviewed"
    request: Name
    """The audit id of the request."""
    about_seq: Seq
    label: Code
    reviewer: Name
    note: Text | None = None
    replaces: Seq | None = None
    actor: Name | None = None
    """Who wrote it down, who need not be the reviewer."""


class Accessed(Header):
    """Record that a person searched or looked up records."""

    kind: Literal["accessed"] = "accessed"
    action: Code
    actor: Name | None = None
    query: Text | None = None
    mark: Pseudonym | None = None
    found: Count = 0


class Exported(Header):
    """Record that records left the ledger."""

    kind: Literal["exported"] = "exported"
    format: Code
    records: Count
    first_seq: Seq | None = None
    last_seq: Seq | None = None
    digest: Digest | None = None
    """SHA-256 of the exported file."""
    actor: Name | None = None
    query: Text | None = None


class Verified(Header):
    """Record that the ledger was verified, and of the result."""

    kind: Literal["verified"] = "verified"
    ok: bool
    size: Count
    root: Hash
    problems: Count = 0
    actor: Name | None = None


class ErasureRequested(Header):
    """Record that a person asked for erasure."""

    kind: Literal["erasure_requested"] = "erasure_requested"
    erasure_id: Name
    tenant: Name | None = None
    session: Pseudonym | None = None
    reason: Text | None = None
    actor: Name | None = None


class AudioReleased(Header):
    """Record that clips of a session, kept for its next requests, were let go."""

    kind: Literal["audio_released"] = "audio_released"
    tenant: Name | None = None
    session: Pseudonym
    clips: Count
    bytes: Count
    """Their encoded size together."""


class Erased(Header):
    """Record that content became unreadable: its keys were destroyed."""

    kind: Literal["erased"] = "erased"
    erasure_id: Name
    tenant: Name | None = None
    session: Pseudonym | None = None
    keys: tuple[Name, ...] = ()
    contents: Count = 0
    actor: Name | None = None
