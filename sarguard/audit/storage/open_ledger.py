"""Opening a ledger to write: its key, its mirrors, and the first record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from sarguard.audit.proof.mirror import FileMirror, Publisher
from sarguard.audit.proof.signed_notes import Checkpoint
from sarguard.audit.proof.signing_keys import Signer, SigningKey
from sarguard.audit.storage.appender import Appender, Pace, draft
from sarguard.audit.storage.chain_head import subtree
from sarguard.audit.storage.database import last_seq, open_reader
from sarguard.audit.storage.group_commit import GroupCommitWriter
from sarguard.audit.storage.recorder import DurableRecorder, OnFailure, check_on_failure
from sarguard.audit.storage.spool import Spool
from sarguard.errors import (
    AuditIntegrityError,
    AuditWriteError,
)


def check_folder(path: Path) -> None:
    """Raise unless a file can stand at a path, as far as its folder tells.

    Raises:
        AuditWriteError: There is no such folder, or one in the file's own place.
    """
    if path.is_dir():
        raise AuditWriteError(f"the ledger {path} is a folder: name a file in it")
    if not path.absolute().parent.is_dir():
        raise AuditWriteError(
            f"there is no folder for the ledger {path}: make "
            f"{path.absolute().parent}, or name another place"
        )


def find_signer(path: Path, key: Signer | str | Path | None) -> Callable[[], Signer]:
    """Return a function that finds the ledger's key, and makes that of a new ledger."""
    if key is not None and not isinstance(key, (str, Path)):
        return lambda: key
    place = Path(key).absolute() if key else path.with_name(f"{path.name}.key")

    def find() -> Signer:
        new = not path.exists() or path.stat().st_size == 0
        # For a new ledger only: a key that is made now cannot be an old ledger's.
        if new and not place.exists():
            try:
                SigningKey.generate().save(place)
            except FileExistsError:
                # Another process opened the new ledger at the same moment.
                return SigningKey.load(place)
        if not new and not place.exists():
            # A file that is no ledger at all is the error to name, not its key.
            open_reader(path).close()
        return SigningKey.load(place)

    return find


def open_recorder(
    path: Path,
    signer: Callable[[], Signer],
    publisher: Publisher,
    *,
    on_failure: OnFailure,
    spool: Path | None,
    spool_limit: int,
    lock_timeout: float,
    pace: Pace,
) -> DurableRecorder:
    """Open a ledger to write, after comparing it with its mirrors."""
    check_on_failure(on_failure)
    # Before the first write: a record that is added now would take the place of one
    # that was cut off.
    check_mirrors(path, publisher.files)
    writer = GroupCommitWriter(
        path, signer, pace=pace, timeout=lock_timeout, published=publisher.publish
    )
    place = spool or path.with_name(f"{path.name}.spool")
    # Set afterwards, as the writer is made with the publisher.
    publisher.failed = writer.record_mirror_failure
    _record_opening(writer)
    recorder = DurableRecorder(
        writer, Spool(place, limit=spool_limit, timeout=lock_timeout), on_failure
    )
    # What an earlier process left in the spool.
    recorder.flush()
    return recorder


def _record_opening(writer: GroupCommitWriter) -> None:
    """Write the first record of a ledger, or that one more process writes to it."""
    library = version("sarguard")

    def begin(appender: Appender) -> None:
        if appender.head.size == 0:
            appender.begin_ledger(library)
            appender.sign()
        else:
            appender.write(draft("writer_opened", {"library": library}))

    writer.transact(begin)


def check_mirrors(path: Path, mirrors: Iterable[FileMirror]) -> None:
    """Compare an existing ledger with the newest checkpoint that was copied elsewhere.

    Raises:
        AuditIntegrityError: if the ledger is shorter or different.
    """
    for mirror in mirrors:
        copies = mirror.checkpoints()
        if copies:
            _check(path, max(copies, key=lambda copy: copy.size), mirror.path)


def _check(path: Path, copy: Checkpoint, where: Path) -> None:
    if not path.exists():
        raise AuditIntegrityError(
            f"{where} holds a checkpoint of {copy.size} records, but there is no "
            f"ledger at {path}: restore it, or name another mirror"
        )
    with closing(open_reader(path)) as connection:
        size = last_seq(connection)
        if size < copy.size:
            raise AuditIntegrityError(
                f"records {size + 1} to {copy.size} are missing from the end of "
                f"{path}: {where} holds a checkpoint of {copy.size}"
            )
        if subtree(connection, 0, copy.size) != copy.root:
            raise AuditIntegrityError(
                f"{path} is not the ledger that {where} holds a checkpoint of: "
                f"the first {copy.size} records differ"
            )
