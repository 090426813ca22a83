"""Audio handles: messages name their clips, and the clips stay in memory.

A message that names its clip, `{"type": "audio", "file_id": "sar_..."}`, can go
through callbacks, tracers, checkpoints, caches and logs: all they record is a random
name. LangChain copies messages to every one of these, so a voice in a message would be
stored in places that the application neither chose nor can erase.
"""

from __future__ import annotations

import io
import os
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_sarguard.content_blocks import AudioPart, parse_content
from langchain_sarguard.errors import AudioHandleError, InvalidInputError

PREFIX = "sar_"

ClipInput: TypeAlias = "bytes | bytearray | str | os.PathLike[str]"
"""Encoded bytes, a path, or the handle of a clip that is in the store already."""

_Message = TypeVar("_Message", bound=BaseMessage)


class AudioStore:
    """Thread-safe, bounded store of encoded clips; least recently used ones go first.

    Handles are random, not digests: the digest of a voice is still personal data. A
    store lives in one process and ends with it.
    """

    def __init__(
        self, *, max_clips: int = 1024, max_bytes: int = 256 * 1024 * 1024
    ) -> None:
        """Create an empty store.

        Args:
            max_clips: Maximum number of clips.
            max_bytes: Maximum size of all clips together; a larger clip is refused.
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
        self._borrowed: dict[str, Callable[[], bytes]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of clips, borrowed ones included."""
        return len(self._clips) + len(self._borrowed)

    def put(self, data: bytes) -> str:
        """Store an encoded clip and return its handle.

        Raises:
            ValueError: The clip is larger than the whole store.
        """
        if len(data) > self._max_bytes:
            raise ValueError(
                f"the clip has {len(data)} bytes and the store takes "
                f"{self._max_bytes}: create an AudioStore with a larger max_bytes"
            )
        handle = _new_handle()
        with self._lock:
            self._clips[handle] = data
            self._bytes += len(data)
            # The new clip is the last to go, and fits: its size was checked.
            while len(self._clips) > self._max_clips or self._bytes > self._max_bytes:
                _, dropped = self._clips.popitem(last=False)
                self._bytes -= len(dropped)
        return handle

    def borrow(self, read: Callable[[], bytes], *, owner: object) -> str:
        """Return a handle for a clip that `read` returns while its owner lives.

        Borrowed clips are not copied and do not count towards the bounds.
        """
        handle = _new_handle()
        # Finalizers run wherever the collector does, even in a thread that holds the
        # lock, so they must not take it: one pop from a dict is atomic without it.
        self._borrowed[handle] = read
        weakref.finalize(owner, self._borrowed.pop, handle, None).atexit = False
        return handle

    def get(self, handle: str) -> bytes:
        """Return a clip.

        Raises:
            AudioHandleError: There is none of that handle.
        """
        with self._lock:
            if handle in self._clips:
                self._clips.move_to_end(handle)
                return self._clips[handle]
        try:
            read = self._borrowed[handle]
        except KeyError:
            raise AudioHandleError(
                f"there is no clip named {handle!r} here: it was dropped because the "
                "store was full, or put into the store of another process. Put it in "
                "again, create a larger AudioStore, or leave the message out."
            ) from None
        # Outside the lock: decoding a long clip must not hold up other threads.
        return read()

    def delete(self, handle: str) -> None:
        """Delete a stored clip, if it is there."""
        with self._lock:
            self._bytes -= len(self._clips.pop(handle, b""))

    def __repr__(self) -> str:
        return f"AudioStore({len(self)} clips)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AudioStore cannot be pickled: it holds voices")


_DEFAULT = AudioStore()


def default_audio_store() -> AudioStore:
    """Return the store of this process, which is used where no other is given."""
    return _DEFAULT


def audio_message(
    clip: ClipInput | Sequence[ClipInput],
    text: str = "",
    *,
    audio_store: AudioStore | None = None,
) -> HumanMessage:
    """Store clips and return a message that names them.

    Args:
        clip: One clip or several: encoded bytes, a path, or a handle.
        text: What the user wrote; goes after the clips.
        audio_store: The chat model's; by default the one that all share.

    Raises:
        InvalidInputError: A clip is of another type.
        OSError: A file cannot be read.
    """
    store = _DEFAULT if audio_store is None else audio_store
    clips: Sequence[Any] = clip if isinstance(clip, (list, tuple)) else [clip]
    content: list[str | dict[Any, Any]] = [
        _handle_block(_stored(one, store)) for one in clips
    ]
    if text:
        content.append({"type": "text", "text": text})
    return HumanMessage(content=content)


def wav_bytes(samples: Any, *, sample_rate: int) -> bytes:
    """Return samples of shape (time,), float or 16-bit, as the bytes of a WAV file."""
    import soundfile  # type: ignore[import-untyped]

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def detach_audio(
    messages: Sequence[BaseMessage], store: AudioStore
) -> list[BaseMessage]:
    """Return messages with a handle in place of every clip; none is modified.

    A clip can be read by its handle as long as the returned message lives. Nothing is
    decoded before that, so this may run on an event loop.

    Raises:
        InvalidInputError: A message holds a block that cannot be used.
    """
    return [_detach(message, i, store) for i, message in enumerate(messages)]


def _detach(message: _Message, index: int, store: AudioStore) -> _Message:
    if "audio" in message.additional_kwargs:
        # Where messages of other providers keep what their model spoke.
        rest = {k: v for k, v in message.additional_kwargs.items() if k != "audio"}
        message = message.model_copy(update={"additional_kwargs": rest})
    if isinstance(message.content, str):
        return message
    parts = list(parse_content(message, where=f"messages[{index}]"))
    if not any(isinstance(part, AudioPart) for part in parts):
        return message
    detached = message.model_copy()
    detached.content = [
        _handle_block(part.handle or store.borrow(part.read, owner=detached))
        if isinstance(part, AudioPart)
        else block
        for part, block in zip(parts, message.content, strict=True)
    ]
    return detached


def _handle_block(handle: str) -> dict[str, Any]:
    return {"type": "audio", "file_id": handle}


def _stored(clip: object, store: AudioStore) -> str:
    """Return the handle of a clip, which is stored unless it is a handle itself."""
    if isinstance(clip, str) and clip.startswith(PREFIX):
        return clip
    if isinstance(clip, (bytes, bytearray)):
        return store.put(bytes(clip))
    if isinstance(clip, (str, os.PathLike)):
        return store.put(Path(clip).read_bytes())
    raise InvalidInputError(
        f"a clip is a {type(clip).__name__}: give encoded bytes, a path or a handle; "
        "for samples use wav_bytes()"
    )


def _new_handle() -> str:
    # 128 random bits: nobody can guess the name of another caller's clip.
    return PREFIX + secrets.token_hex(16)
