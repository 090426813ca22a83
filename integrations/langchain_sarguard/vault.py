"""Clips kept in memory under a name, so that messages need not carry a voice.

A message that names its clip, `{"type": "audio", "file_id": "sar_..."}`, can go
through callbacks, tracers, checkpoints, caches and logs: whoever reads them finds a
random name.
"""

from __future__ import annotations

import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import NoReturn

from langchain_sarguard.errors import AudioHandleError

PREFIX = "sar_"


class AudioVault:
    """Hold encoded clips by name; those unused for longest go first.

    Names are random, not digests: the digest of a voice is still personal data. A
    vault lives in one process and is lost with it.
    """

    def __init__(
        self, *, max_clips: int = 1024, max_bytes: int = 256 * 1024 * 1024
    ) -> None:
        """Open a vault.

        Args:
            max_clips: Most clips that are kept.
            max_bytes: Most bytes that they have together; a larger clip is refused.
        """
        if max_clips < 1 or max_bytes < 1:
            raise ValueError(
                f"max_clips is {max_clips} and max_bytes {max_bytes}: need 1 or more "
                "of each"
            )
        self._max_clips = max_clips
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._clips: OrderedDict[str, bytes] = OrderedDict()
        self._lent: dict[str, Callable[[], bytes]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Return how many clips are kept or lent."""
        return len(self._clips) + len(self._lent)

    def put(self, data: bytes) -> str:
        """Keep an encoded clip and return its name.

        Raises:
            ValueError: The clip is larger than the whole vault.
        """
        if len(data) > self._max_bytes:
            raise ValueError(
                f"the clip has {len(data)} bytes and the vault holds "
                f"{self._max_bytes}: open one with a larger max_bytes"
            )
        handle = _new_handle()
        with self._lock:
            self._clips[handle] = data
            self._bytes += len(data)
            while len(self._clips) > self._max_clips or self._bytes > self._max_bytes:
                _, dropped = self._clips.popitem(last=False)
                self._bytes -= len(dropped)
        return handle

    def lend(self, read: Callable[[], bytes], owner: object) -> str:
        """Name a clip, that `read` gives, for exactly as long as its owner lives."""
        handle = _new_handle()
        self._lent[handle] = read
        weakref.finalize(owner, self._lent.pop, handle, None).atexit = False
        return handle

    def get(self, handle: str) -> bytes:
        """Return the clip of a name.

        Raises:
            AudioHandleError: There is none.
        """
        with self._lock:
            if handle in self._clips:
                self._clips.move_to_end(handle)
                return self._clips[handle]
        try:
            read = self._lent[handle]
        except KeyError:
            raise AudioHandleError(
                f"there is no clip named {handle!r} here: it was dropped because the "
                "vault was full, or put into the vault of another process. Put it in "
                "again, open a larger AudioVault, or leave the message out."
            ) from None
        return read()

    def forget(self, handle: str) -> None:
        """Drop a clip, if it is there."""
        with self._lock:
            self._bytes -= len(self._clips.pop(handle, b""))

    def __repr__(self) -> str:
        return f"AudioVault({len(self)} clips)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AudioVault cannot be pickled: it holds voices")


_SHARED = AudioVault()


def shared_vault() -> AudioVault:
    """Return the vault of this process, which is used where none is given."""
    return _SHARED


def _new_handle() -> str:
    return PREFIX + secrets.token_hex(16)
