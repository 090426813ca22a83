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
import time
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.prompt_values import ChatPromptValue, PromptValue

from langchain_sarguard.content_blocks import is_audio_block, parse_block
from langchain_sarguard.errors import AudioHandleError, InvalidInputError
from sarguard.audio import pcm_bytes

PREFIX = "sar_"
_DATA_KEYS = ("base64", "data", "file_data", "url")
_REMOVED = "(removed)"
_NAMING = frozenset({"type", "file_id", "id", "source_type", "index"})
_MAX_PATH = 4_096
_MAX_REFERENCE = 2_048
"""Longest text that is kept of a block that cannot be used; more may be audio."""

ClipInput: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
"""Encoded bytes, a path, or the handle of a clip that is in the store already."""


class Handle(str):
    """Random name of a clip; what is lent under it goes with the last reference."""

    __slots__ = ("__weakref__",)


# What is lent for one call, by handle. One for the process: the runnables around a chat
# model replace audio without knowing whose store will be asked for it.
_lent: dict[str, Callable[[], bytes]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What left a store at the end of a conversation."""

    clips: int = 0
    bytes: int = 0


@dataclass(slots=True, kw_only=True)
class _Entry:
    data: bytes
    used: float
    conversations: set[Hashable] = field(default_factory=set)


class AudioStore:
    """Thread-safe, bounded store of encoded clips; least recently used ones go first.

    A clip stays until the conversations that used it end, see `release`, until it has
    not been used for `max_idle_s`, or until a bound is reached. Handles are random, not
    digests: the digest of a voice is still personal data. A store lives in one process
    and ends with it.
    """

    def __init__(
        self,
        *,
        max_clips: int = 1024,
        max_bytes: int = 256 * 1024 * 1024,
        max_clips_per_conversation: int = 64,
        max_idle_s: float = 3600.0,
    ) -> None:
        """Create an empty store.

        Args:
            max_clips: Maximum number of clips.
            max_bytes: Maximum size of all clips together; a larger clip is refused.
            max_clips_per_conversation: Maximum number of clips of one conversation, so
                that a long call does not push out those of others.
            max_idle_s: Seconds after which a clip goes that nobody asked for: a caller
                who hung up may never say so.

        Raises:
            ValueError: A bound leaves no room for a clip.
        """
        bounds = {
            "max_clips": max_clips,
            "max_bytes": max_bytes,
            "max_clips_per_conversation": max_clips_per_conversation,
        }
        for name, bound in bounds.items():
            if bound < 1:
                raise ValueError(f"{name} is {bound}: need 1 or more")
        if not max_idle_s > 0:
            raise ValueError(f"max_idle_s is {max_idle_s}: need more than 0 seconds")
        self._max_clips = max_clips
        self._max_bytes = max_bytes
        self._max_of_conversation = max_clips_per_conversation
        self._max_idle_s = max_idle_s
        self._lock = threading.Lock()
        self._clips: OrderedDict[str, _Entry] = OrderedDict()
        # Handles of each conversation, oldest first; a dict for its order.
        self._of: defaultdict[Hashable, dict[str, None]] = defaultdict(dict)
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of clips."""
        with self._lock:
            self._drop_idle()
            return len(self._clips)

    def put(self, data: bytes, *, conversation: Hashable | None = None) -> str:
        """Store an encoded clip and return its handle.

        Args:
            data: The clip.
            conversation: Whose it is; any hashable name. None leaves that to the first
                conversation that uses it.

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
            self._drop_idle()
            self._clips[handle] = _Entry(data=data, used=time.monotonic())
            self._bytes += len(data)
            self._claim(handle, conversation)
            # The new clip is the last to go, and fits: its size was checked.
            while len(self._clips) > self._max_clips or self._bytes > self._max_bytes:
                self._drop(next(iter(self._clips)))
        return handle

    def get(self, handle: str, *, conversation: Hashable | None = None) -> bytes:
        """Return a clip, which stays until the conversation ends, if one is named.

        Raises:
            AudioHandleError: There is none of that handle.
        """
        with self._lock:
            self._drop_idle()
            entry = self._clips.get(handle)
            if entry is not None:
                entry.used = time.monotonic()
                self._clips.move_to_end(handle)
                self._claim(handle, conversation)
                return entry.data
        read = _lent.get(handle)
        if read is None:
            raise AudioHandleError(
                f"there is no clip named {handle!r} here: its call or its conversation "
                "has ended, it was dropped because the store was full, or it was put "
                "into the store of another process. Put it in again, create a larger "
                "AudioStore, or leave the message out."
            )
        # Outside the lock: decoding a long clip must not hold up other threads.
        return read()

    def delete(self, handle: str) -> None:
        """Delete a stored clip, if it is there."""
        with self._lock:
            self._drop(handle)

    def release(self, conversation: Hashable) -> Released:
        """Forget a conversation, and delete the clips that no other one uses."""
        with self._lock:
            clips, size = 0, 0
            for handle in self._of.pop(conversation, ()):
                entry = self._clips[handle]
                entry.conversations.discard(conversation)
                if not entry.conversations:
                    clips, size = clips + 1, size + len(entry.data)
                    self._drop(handle)
        return Released(clips=clips, bytes=size)

    def _claim(self, handle: str, conversation: Hashable | None) -> None:
        """Note that a conversation uses a clip; its oldest ones go."""
        if conversation is None:
            return
        self._clips[handle].conversations.add(conversation)
        handles = self._of[conversation]
        handles[handle] = None
        while len(handles) > self._max_of_conversation:
            oldest = next(iter(handles))
            del handles[oldest]
            users = self._clips[oldest].conversations
            users.discard(conversation)
            if not users:
                self._drop(oldest)

    def _drop_idle(self) -> None:
        # Clips are kept in the order of their last use.
        before = time.monotonic() - self._max_idle_s
        while self._clips and next(iter(self._clips.values())).used < before:
            self._drop(next(iter(self._clips)))

    def _drop(self, handle: str) -> None:
        entry = self._clips.pop(handle, None)
        if entry is None:
            return
        self._bytes -= len(entry.data)
        for conversation in entry.conversations:
            handles = self._of[conversation]
            handles.pop(handle, None)
            if not handles:
                del self._of[conversation]

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
    conversation: Hashable | None = None,
) -> HumanMessage:
    """Store clips and return a message that names them.

    Args:
        clip: One clip or several: encoded bytes, a path, or a handle.
        text: What the user wrote; goes after the clips.
        audio_store: The chat model's; by default the one that all share.
        conversation: Whose clips they are; see `AudioStore.put`.

    Raises:
        InvalidInputError: A clip is of another type.
        OSError: A file cannot be read.
    """
    store = _DEFAULT if audio_store is None else audio_store
    clips: Sequence[Any] = clip if isinstance(clip, (list, tuple)) else [clip]
    content: list[str | dict[Any, Any]] = [
        handle_block(
            one
            if is_handle(one)
            else store.put(read_clip(one), conversation=conversation)
        )
        for one in clips
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


def is_handle(clip: object) -> bool:
    """Return whether this is the name of a clip."""
    return isinstance(clip, str) and clip.startswith(PREFIX)


def handle_block(handle: str) -> dict[str, Any]:
    """Return the content block that names a clip."""
    return {"type": "audio", "file_id": handle}


def read_clip(clip: object) -> bytes:
    """Return the bytes of a clip that is not in a store yet.

    Raises:
        InvalidInputError: It is neither bytes nor a path.
        OSError: The file cannot be read.
    """
    if isinstance(clip, (bytes, bytearray, memoryview)):
        return bytes(clip)
    if isinstance(clip, str) and (len(clip) > _MAX_PATH or clip.startswith("data:")):
        # Not quoted: it may be the sound itself.
        raise InvalidInputError(
            f"a clip is a text of {len(clip)} characters: give encoded bytes, a path "
            "or a handle; decode base64 before"
        )
    if isinstance(clip, (str, os.PathLike)):
        return Path(clip).read_bytes()
    raise InvalidInputError(
        f"a clip is a {type(clip).__name__}: give encoded bytes, a path or a handle; "
        "for samples use wav_bytes()"
    )


class AudioStream:
    """Stream of audio as one item, which a tracer can neither copy nor keep."""

    __slots__ = ("closed", "items")

    def __init__(self, items: Any) -> None:
        self.items = items
        self.closed = False
        """Whether nobody reads it any more: then it ends with its next item."""

    def __repr__(self) -> str:
        return "<a stream of audio>"

    def __deepcopy__(self, memo: dict[int, object]) -> AudioStream:
        # Logs of runs are copied; a stream can be read once.
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream of audio cannot be pickled")


@contextmanager
def hidden(value: Any) -> Iterator[Any]:
    """Yield a value with a handle in place of all audio in it; nothing is modified.

    A clip can be read by its handle until the block ends. Audio is recognised as bytes,
    as samples, and as the audio blocks of messages, at any depth. Nothing is decoded:
    this may run on an event loop.
    """
    lent: list[str] = []
    try:
        yield _replace(value, lent)
    finally:
        # Before the last reference goes: a tracer may keep what it was given.
        for handle in lent:
            _lent.pop(handle, None)


def hide(value: Any) -> Any:
    """Return a value as `hidden` does; clips last as long as what is returned."""
    return _replace(value, [])


def _replace(value: Any, lent: list[str]) -> Any:
    """Return a value with handles in place of audio, and note what was lent."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        # Copied: the caller may reuse the buffer, as an audio driver does.
        copied = bytes(value)
        return _lend(lambda: copied, lent)
    if isinstance(value, np.ndarray):
        pcm = pcm_bytes(value)
        return _lend(lambda: pcm, lent)
    if isinstance(value, BaseMessage):
        return _replace_in_message(value, lent)
    if isinstance(value, PromptValue):
        messages = value.to_messages()
        replaced = [_replace_in_message(message, lent) for message in messages]
        same = all(a is b for a, b in zip(messages, replaced, strict=True))
        return value if same else ChatPromptValue(messages=replaced)
    if isinstance(value, Mapping):
        if is_audio_block(value):
            return _replace_block(value, lent)
        return _kept(value, {k: _replace_value(k, v, lent) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        items = [_replace(item, lent) for item in value]
        if all(a is b for a, b in zip(value, items, strict=True)):
            return value
        return items if isinstance(value, list) else tuple(items)
    return value


def _replace_value(key: object, value: Any, lent: list[str]) -> Any:
    if key in _DATA_KEYS and isinstance(value, str) and len(value) > _MAX_REFERENCE:
        # Of a block that this model does not take, and says so.
        return _REMOVED
    return _replace(value, lent)


def _kept(before: Mapping[Any, Any], after: dict[Any, Any]) -> Any:
    """Return the mapping as it was, where nothing in it changed."""
    return before if all(before[k] is v for k, v in after.items()) else after


def _replace_in_message(message: BaseMessage, lent: list[str]) -> BaseMessage:
    if "audio" in message.additional_kwargs:
        # Where messages of other providers keep what their model spoke.
        rest = {k: v for k, v in message.additional_kwargs.items() if k != "audio"}
        message = message.model_copy(update={"additional_kwargs": rest})
    extras = {
        name: replaced
        for name in ("additional_kwargs", "response_metadata")
        if (replaced := _replace(getattr(message, name), lent))
        is not getattr(message, name)
    }
    if extras:
        message = message.model_copy(update=extras)
    if isinstance(message.content, str):
        return message
    content = _replace(message.content, lent)
    if content is message.content:
        return message
    replaced = message.model_copy()
    replaced.content = content
    return replaced


def _replace_block(block: Mapping[str, Any], lent: list[str]) -> Any:
    try:
        part = parse_block(block, where="the clip")
    except InvalidInputError:
        # Nothing to lend: whoever parses the messages says what is wrong with it.
        return {k: v for k, v in block.items() if _is_no_audio(v)}
    if part.handle is not None:
        # Whatever else it carries is not read.
        return block if set(block) <= _NAMING else handle_block(part.handle)
    return handle_block(_lend(part.read, lent))


def _is_no_audio(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_REFERENCE
    return isinstance(value, (int, float)) or value is None


def _lend(read: Callable[[], bytes], lent: list[str]) -> Handle:
    handle = Handle(_new_handle())
    # By a plain string: the handle itself would be kept alive by its own entry.
    _lent[str(handle)] = read
    lent.append(str(handle))
    # Finalizers run wherever the collector does, even in a thread that holds a lock:
    # one pop from a dict is atomic without any.
    weakref.finalize(handle, _lent.pop, str(handle), None).atexit = False
    return handle


def _new_handle() -> str:
    # 128 random bits: nobody can guess the name of another caller's clip.
    return PREFIX + secrets.token_hex(16)
