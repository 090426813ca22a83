"""Messages that name their clips, in place of messages that carry them."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_sarguard.blocks import Sound, read_blocks
from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.vault import PREFIX, AudioVault, shared_vault

Clip: TypeAlias = "bytes | bytearray | str | os.PathLike[str]"
"""Encoded bytes, a path, or the name of a clip that is in the vault already."""

_Message = TypeVar("_Message", bound=BaseMessage)


def audio_message(
    clip: Clip | Sequence[Clip], text: str = "", *, vault: AudioVault | None = None
) -> HumanMessage:
    """Put clips into a vault and return a message that names them.

    Args:
        clip: One clip or several: encoded bytes, a path, or a vault's handle.
        text: What the user wrote; goes behind the clips.
        vault: The chat model's; the default is the one that all of them share.

    Raises:
        InvalidInputError: A clip is of another type.
        OSError: A file cannot be read.
    """
    store = shared_vault() if vault is None else vault
    clips: Sequence[Any] = clip if isinstance(clip, (list, tuple)) else [clip]
    content: list[str | dict[Any, Any]] = [
        audio_block(_handle_of(one, store)) for one in clips
    ]
    if text:
        content.append({"type": "text", "text": text})
    return HumanMessage(content=content)


def audio_block(handle: str) -> dict[str, Any]:
    """Return the content block that names a clip."""
    return {"type": "audio", "file_id": handle}


def wav_bytes(samples: Any, *, sample_rate: int) -> bytes:  # noqa: ANN401
    """Return samples of shape (time,), float or 16-bit, as the bytes of a WAV file."""
    import soundfile  # type: ignore[import-untyped]

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def hide_audio(messages: Sequence[BaseMessage], vault: AudioVault) -> list[BaseMessage]:
    """Return messages in which every clip is named; the vault lends the clips.

    A lent clip lives as long as the returned message that names it.

    Raises:
        InvalidInputError: A message holds a block that cannot be used.
    """
    return [_hide(message, i, vault) for i, message in enumerate(messages)]


def _hide(message: _Message, index: int, vault: AudioVault) -> _Message:
    if "audio" in message.additional_kwargs:
        # Where other providers' answers keep what their models said aloud.
        rest = {k: v for k, v in message.additional_kwargs.items() if k != "audio"}
        message = message.model_copy(update={"additional_kwargs": rest})
    if isinstance(message.content, str):
        return message
    items = list(read_blocks(message, where=f"messages[{index}]"))
    if not any(isinstance(item, Sound) for item in items):
        return message
    hidden = message.model_copy()
    hidden.content = [
        _named(item, hidden, vault) if isinstance(item, Sound) else block
        for item, block in zip(items, message.content, strict=True)
    ]
    return hidden


def _named(sound: Sound, owner: BaseMessage, vault: AudioVault) -> dict[str, Any]:
    if sound.handle is not None:
        return audio_block(sound.handle)
    return audio_block(vault.lend(sound.read, owner))


def _handle_of(clip: object, vault: AudioVault) -> str:
    if isinstance(clip, str) and clip.startswith(PREFIX):
        return clip
    if isinstance(clip, (bytes, bytearray)):
        return vault.put(bytes(clip))
    if isinstance(clip, (str, os.PathLike)):
        return vault.put(Path(clip).read_bytes())
    raise InvalidInputError(
        f"a clip is a {type(clip).__name__}: give encoded bytes, a path or a handle; "
        "for samples use wav_bytes()"
    )
