"""Why a ledger could not be written, as codes that a policy can act on."""

from __future__ import annotations

import errno
import sqlite3

from sarguard.errors import AuditWriteError

_BY_NAME = {
    "SQLITE_BUSY": "lock_timeout",
    "SQLITE_LOCKED": "lock_timeout",
    "SQLITE_FULL": "disk_full",
    "SQLITE_READONLY": "read_only",
    "SQLITE_CANTOPEN": "cannot_open",
    "SQLITE_PERM": "no_permission",
    "SQLITE_AUTH": "no_permission",
    "SQLITE_CORRUPT": "damaged",
    "SQLITE_NOTADB": "damaged",
    "SQLITE_IOERR": "io_error",
}

_BY_WORDS = {
    "locked": "lock_timeout",
    "full": "disk_full",
    "readonly": "read_only",
    "unable to open": "cannot_open",
    "malformed": "damaged",
    "not a database": "damaged",
}

_BY_ERRNO = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EROFS: "read_only",
    errno.EACCES: "no_permission",
    errno.EPERM: "no_permission",
}

_ADVICE = {
    "lock_timeout": "another process holds the ledger: find it, or raise lock_timeout",
    "disk_full": "free some space",
    "read_only": "make the file and its folder writable",
    "cannot_open": "check that the folder exists and can be written",
    "no_permission": "give the process the right to write there",
    "damaged": "keep the file as it is, and restore a copy beside it",
    "io_error": "check the disk",
}


def cause_of(error: Exception) -> str:
    """Name why a write failed: `disk_full`, `io_error`, `lock_timeout` ..."""
    if isinstance(error, AuditWriteError):
        return error.cause
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "")
        for start, cause in _BY_NAME.items():
            # Extended codes begin with the plain one, such as SQLITE_IOERR_FSYNC.
            if name.startswith(start):
                return cause
        # Python 3.10 gives no error names: the message has to do.
        causes = (cause for text, cause in _BY_WORDS.items() if text in str(error))
        return next(causes, "io_error")
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_ERRNO.get(error.errno, "io_error")
    return "io_error"


def write_error(error: Exception, what: str) -> AuditWriteError:
    """Return the library's error for a write that failed, its cause attached."""
    cause = cause_of(error)
    advice = _ADVICE.get(cause, "check the disk")
    wrapped = AuditWriteError(f"{what}: {cause} ({error}); {advice}")
    wrapped.cause = cause
    return wrapped
