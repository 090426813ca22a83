"""The audit log: the ledger as the rest of the library uses it."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from sarguard.audit.operations import maintenance
from sarguard.audit.proof.mirror import Mirror, Publisher
from sarguard.audit.proof.signed_notes import Checkpoint, VerifierKey
from sarguard.audit.proof.signing_keys import Signer
from sarguard.audit.records.fields import (
    AppliedDose,
    CheckVerdict,
    Content,
    Durations,
    FallbackRef,
    FaultRef,
    Header,
    InputDescription,
    ModelRef,
    OutputDescription,
    PolicyRef,
    Score,
    SteeringReceipt,
    SteeringRef,
    TokenCounts,
    round_number,
)
from sarguard.audit.records.ids import new_name
from sarguard.audit.records.requests import RequestRecord
from sarguard.audit.storage.appender import Pace, draft
from sarguard.audit.storage.database import open_reader
from sarguard.audit.storage.open_ledger import check_folder, find_signer, open_recorder
from sarguard.audit.storage.query import Entry, LedgerReader, Query
from sarguard.audit.storage.recorder import (
    DurableRecorder,
    LedgerState,
    OnFailure,
    RecordReceipt,
    check_on_failure,
)
from sarguard.errors import AuditError, AuditRecordError, AuditWriteError
from sarguard.logs import get_logger
from sarguard.types import Outcome

_log = get_logger(__name__)


class AuditLog:
    """An open ledger; open one with `AuditLog.open`.

    Threads may share it, and several processes may have the same file open.
    """

    def __init__(self, reader: LedgerReader, recorder: DurableRecorder | None) -> None:
        self.reader = reader
        """Reads the ledger: counts, tallies, checkpoints."""
        self.path = reader.path
        self._recorder = recorder
        # What both records of a request share, from its start to its end.
        # Set, read and popped by single operations of a dict, so that threads need no
        # lock.
        self._started: dict[str, dict[str, object]] = {}

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        key: Signer | str | Path | None = None,
        mirror: Mirror | str | Path | Sequence[Mirror | str | Path] = (),
        on_failure: OnFailure = "block",
        spool: str | Path | None = None,
        spool_limit: int = 10_000,
        lock_timeout: float = 5.0,
        pace: Pace | None = None,
        read_only: bool = False,
    ) -> AuditLog:
        """Open a ledger; make it, and its key, if there is none.

        Args:
            path: the ledger's file, on a local disk.
            key: the key that signs checkpoints: a signer, or a key file. By default
                the file's name with `.key` added; it is made with a new ledger.
            mirror: where signed checkpoints are copied to: files to append to, or
                functions that take their text. Use a place that those who can change
                the ledger cannot change.
            on_failure: what to do when a record cannot be written: `block` raises,
                `spool` keeps it in a bounded file, `degrade` goes on unrecorded.
            spool: the spool's file; by default beside the ledger.
            spool_limit: how many records may wait in the spool.
            lock_timeout: seconds to wait for other writers.
            pace: how often to sign and to begin a segment.
            read_only: open for reading only; no key is needed.

        Raises:
            AuditNotFoundError: if the key, or a ledger opened to read, is missing.
            AuditFormatError: if the file is damaged, foreign or from a newer version.
            AuditKeyError: if the key is not the ledger's.
            AuditIntegrityError: if a mirrored checkpoint does not fit the ledger.
            AuditWriteError: if the ledger cannot be written.
        """
        # The program may change its working directory while the ledger is open.
        reader = LedgerReader(Path(path).absolute())
        if read_only:
            reader.connect().close()
            return cls(reader, None)
        check_folder(reader.path)
        publisher = Publisher(mirror)
        recorder = open_recorder(
            reader.path,
            find_signer(reader.path, key),
            publisher,
            on_failure=on_failure,
            spool=Path(spool).absolute() if spool else None,
            spool_limit=spool_limit,
            lock_timeout=lock_timeout,
            pace=pace or Pace(),
        )
        log = cls(reader, recorder)
        _OPEN.add(log)
        return log

    def started(
        self,
        *,
        entry: str,
        policy: PolicyRef | None = None,
        model: ModelRef | None = None,
        steering: SteeringRef | None = None,
        input: InputDescription | None = None,
        tenant: str | None = None,
        session: str | None = None,
        actor: str | None = None,
        mark_key: str | None = None,
        request_id: str | None = None,
        parent: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        locale: str | None = None,
        content: Sequence[Content] = (),
    ) -> RecordReceipt:
        """Record that a request came in; do this before its first token.

        Args:
            entry: the way in: `generate`, `stream`, `batch`, `agenerate` ...
            policy: the policy that holds.
            model: the model that will answer.
            steering: the steering that is attached.
            input: a description of what came in.
            tenant: the tenant that the request belongs to.
            session: HMAC of the caller's session.
            actor: HMAC of who asked.
            mark_key: the key under which HMACs were made.
            request_id: the caller's own name for the request.
            parent: the request that this one follows from.
            trace_id: the trace that the request belongs to: 32 hexadecimal digits, as
                in W3C trace context. Both records of the request hold it.
            span_id: the span of that trace that it came from: 16 hexadecimal digits.
            locale: the caller's language.
            content: content that the policy keeps, redacted or sealed.

        Returns:
            A receipt; `finished` wants its `audit_id`.

        Raises:
            AuditWriteError: if it could not be kept: do not answer.
            AuditRecordError: if a value does not fit the schema.
        """
        audit_id = new_name("req")
        shared: dict[str, object] = {
            "audit_id": audit_id,
            "tenant": tenant,
            "session": session,
            "actor": actor,
            "mark_key": mark_key,
            "policy": policy,
            "trace_id": trace_id,
            "span_id": span_id,
        }
        own: dict[str, object] = {
            "entry": entry,
            "model": model,
            "steering": steering,
            "input": input,
            "request_id": request_id,
            "parent": parent,
            "locale": locale,
            "content": tuple(content),
        }
        receipt = self._writing().record(draft("request_started", {**shared, **own}))
        # Only once it is recorded: a request without a first record has no last one.
        self._started[audit_id] = shared
        return receipt

    def finished(
        self,
        audit_id: str,
        *,
        outcome: Outcome | str,
        reason: str | None = None,
        rule: str | None = None,
        checks: Sequence[CheckVerdict] = (),
        scores: Sequence[Score] = (),
        dose: AppliedDose | None = None,
        receipt: SteeringReceipt | None = None,
        output: OutputDescription | None = None,
        said_before: OutputDescription | None = None,
        usage: TokenCounts | None = None,
        timings: Durations | None = None,
        fallback: FallbackRef | None = None,
        fault: FaultRef | None = None,
        content: Sequence[Content] = (),
        temperature: float = 0.0,
        greedy_tokens: int = 0,
        reading: str | None = None,
        left_out: int = 0,
        trimmed: int = 0,
        policy: PolicyRef | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
    ) -> RecordReceipt:
        """Record how a request ended; do this before the answer leaves.

        Args:
            audit_id: what `started` gave.
            outcome: how it ended.
            reason: why, as a code; never how a rule works.
            rule: the policy's rule that decided.
            checks: the verdicts of input and output checks.
            scores: the scores of detectors.
            dose: the steering coefficient of the answer.
            receipt: the proof that it was steered.
            output: a description of what went out.
            said_before: a description of what had gone out in pieces before the output
                took its place.
            usage: token counts.
            timings: durations.
            fallback: the message given instead of an answer.
            fault: what failed, without its message.
            content: content that the policy keeps, redacted or sealed.
            temperature: the temperature that the answer was sampled at; 0 is greedy.
            greedy_tokens: its first tokens that were chosen greedily.
            reading: what of the request scored highest.
            left_out: turns that the model was not given, as they were not answered.
            trimmed: turns that it was not given, as the history was too long.
            policy: the policy that held at the end, if it is another than at the start.
            trace_id: the trace, if it is another than at the start.
            span_id: the span, if it is another than at the start.

        Raises:
            AuditWriteError: if it could not be kept: do not answer. The request can
                be finished again, as an error.
            AuditRecordError: if the request is unknown or finished, or a value does
                not fit the schema.
        """
        shared = self._started.get(audit_id) or self._shared(audit_id)
        own: dict[str, object] = {
            "outcome": outcome,
            "reason": reason,
            "rule": rule,
            "checks": tuple(checks),
            "scores": tuple(scores),
            "dose": dose,
            "receipt": receipt,
            "output": output,
            "said_before": said_before,
            "usage": usage,
            "timings": timings,
            "fallback": fallback,
            "fault": fault,
            "content": tuple(content),
            # Before the version is chosen: what is written as 0 is left out.
            "temperature": round_number(temperature),
            "greedy_tokens": greedy_tokens,
            "reading": reading,
            "left_out": left_out,
            "trimmed": trimmed,
        }
        changed = {"policy": policy, "trace_id": trace_id, "span_id": span_id}
        own |= {name: value for name, value in changed.items() if value is not None}
        done = self._writing().record(draft("request_finished", {**shared, **own}))
        # Kept until the record is: a request may be finished again, as an error.
        self._started.pop(audit_id, None)
        return done

    def event(self, kind: str, **fields: object) -> RecordReceipt:
        """Record an event; `audit.records.schema.EVENTS` lists kinds and fields.

        Raises:
            AuditWriteError: if it could not be kept.
            AuditRecordError: if the kind or a field does not fit the schema.
        """
        if kind.startswith("request_"):
            raise AuditRecordError("requests are recorded by started and finished")
        return self._writing().record(draft(kind, fields))

    def entries(self, first: int = 1, last: int | None = None) -> Iterator[Entry]:
        """Yield records in order, from one number to another."""
        return self.reader.entries(first, last)

    def search(
        self,
        query: Query | None = None,
        *,
        limit: int | None = 100,
        newest_first: bool = True,
    ) -> Iterator[Entry]:
        """Yield the records that fit a query, ordered by time."""
        wanted = query or Query()
        return self.reader.search(wanted, limit=limit, newest_first=newest_first)

    def request(self, audit_id: str) -> list[Entry]:
        """Return a request's records: its start, and its end if it has one."""
        found = self.search(Query(audit_id=audit_id), limit=None)
        return sorted(found, key=lambda entry: entry.seq)

    def unfinished(self, query: Query | None = None) -> Iterator[Entry]:
        """Yield the first records of requests that have no outcome and fit a query."""
        return self.reader.unfinished(query)

    def checkpoint(self) -> Checkpoint | None:
        """Sign the ledger as it is; return its newest checkpoint."""
        self._writing().writer.transact(lambda appender: appender.sign())
        return self.reader.checkpoint()

    def seal_segment(self) -> int:
        """Close the open segment; return the number of the sealing record."""
        return self._writing().writer.transact(lambda appender: appender.seal())

    def segments(self) -> list[maintenance.Segment]:
        """Return the sealed segments, and those that retention deleted."""
        with closing(open_reader(self.path)) as connection:
            return maintenance.segments(connection)

    def delete_segment(
        self,
        segment: int,
        *,
        retention_days: int,
        reason: str,
        actor: str | None = None,
    ) -> int:
        """Delete a sealed segment, leave a signed tombstone; return how many went.

        Whether a segment may go (its age, the floor, legal holds) is for the caller
        to decide.

        Raises:
            AuditRecordError: if there is no such sealed segment, or it is deleted.
            AuditIntegrityError: if it is not what was sealed.
        """
        return self._writing().writer.transact(
            lambda appender: maintenance.delete_segment(
                appender,
                segment,
                retention_days=retention_days,
                reason=reason,
                actor=actor,
            )
        )

    def rotate_key(self, new: Signer, keep: Callable[[], None] | None = None) -> None:
        """Let a new key sign from here on; both keys sign the handover.

        Args:
            new: the new key; its name is the ledger's origin.
            keep: puts the new key where later processes look for it. By default, a
                `SigningKey` takes the place of the ledger's key file.

        Raises:
            AuditKeyError: if the new key has another name, or is the old one.
        """
        writer = self._writing().writer
        place = self.path.with_name(f"{self.path.name}.key")
        store = keep or (lambda: maintenance.replace_key_file(place, new))
        writer.transact(lambda appender: maintenance.rotate_key(appender, new, store))
        # After the commit: if that fails, the old key still signs.
        writer.signer = new

    @property
    def on_failure(self) -> OnFailure:
        """What is done when a record cannot be written; it may be set."""
        return self._writing().on_failure

    @on_failure.setter
    def on_failure(self, value: OnFailure) -> None:
        self._writing().on_failure = check_on_failure(value)

    @property
    def state(self) -> LedgerState:
        """Return whether records are being written at this moment."""
        return "closed" if self._recorder is None else self._recorder.state

    @property
    def verifier(self) -> VerifierKey:
        """The public key that signs checkpoints now."""
        return self._writing().writer.signer.verifier

    def close(self) -> None:
        """Record the end of writing, sign, and close; a second call does nothing."""
        recorder, self._recorder = self._recorder, None
        _OPEN.discard(self)
        if recorder is None:
            return
        # First, or the timer's thread could sign a ledger that is being closed.
        recorder.cancel_signing()
        try:
            recorder.flush()
            recorder.writer.write(draft("writer_closed", {}))
            recorder.writer.transact(lambda appender: appender.sign())
        finally:
            recorder.writer.close()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _writing(self) -> DurableRecorder:
        if self._recorder is None:
            raise AuditWriteError(
                f"the ledger {self.path} is closed, or open for reading only"
            )
        return self._recorder

    def _shared(self, audit_id: str) -> dict[str, object]:
        """Return what a request's records share, from the first one."""
        query = Query(audit_id=audit_id, kind="request_started")
        for entry in self.search(query, limit=1):
            started = entry.record
            own = set(RequestRecord.model_fields) - set(Header.model_fields)
            return {name: getattr(started, name) for name in own}
        raise AuditRecordError(
            f"no request {audit_id} was started in {self.path}, or its record is "
            "not there yet"
        )


# Closing writes and signs the last records; without it, at exit, they stay unsigned.
_OPEN: weakref.WeakSet[AuditLog] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for log in list(_OPEN):
        try:
            log.close()
        except AuditError as error:
            _log.error("audit_close_failed", path=str(log.path), error=str(error))
