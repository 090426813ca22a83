"""From the content of a LangChain message to text and encoded clips.

Five shapes of audio are understood; langchain-core rewrites the third and the fourth
to the second before a chat model sees them:

    {"type": "audio", "file_id": "sar_..."}  # from an `AudioVault`
    {"type": "audio", "base64": "...", "mime_type": "audio/wav"}
    {"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}
    {"type": "audio", "source_type": "base64", "data": "...", "mime_type": "audio/wav"}
    {"type": "media", "data": "...", "mime_type": "audio/wav"}
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_sarguard.errors import InvalidInputError

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

Block: TypeAlias = Mapping[str, Any]

# Characters of base64: a multiple of 4.
_PART = 2**20
_AUDIO = ("audio", "input_audio", "media")
_REMEDY = (
    'pass the sound itself as {"type": "audio", "base64": "...", '
    '"mime_type": "audio/wav"}, or make the message with audio_message()'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Hold a piece of text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Hold a clip as it was given, or the name of one, and where it was found."""

    where: str
    data: bytes | str | None = None
    """Encoded audio, as bytes or as their base64."""
    handle: str | None = None

    def read(self) -> bytes:
        """Return the clip's bytes; long clips take a while.

        Raises:
            InvalidInputError: What is there is not base64.
        """
        if not isinstance(self.data, str):
            return self.data or b""
        return _decode(self.data, self.where)


def read_blocks(message: BaseMessage, *, where: str) -> Iterator[Text | Sound]:
    """Yield what a message holds, one item a block.

    Args:
        message: Any message.
        where: What to call the message in an error.

    Raises:
        InvalidInputError: A block is of an unknown type, or lacks what its type needs.
    """
    content = message.content
    blocks = [content] if isinstance(content, str) else content
    for index, block in enumerate(blocks):
        place = f"{where}.content[{index}]"
        if isinstance(block, str):
            yield Text(text=block)
        elif block.get("type") == "text":
            yield Text(text=_text(block, place))
        elif block.get("type") in _AUDIO:
            yield _sound(block, place)
        elif _is_own_refusal(message, block):
            yield Text(text="")
        else:
            raise InvalidInputError(
                f"{place} is a block of type {block.get('type')!r}: this model takes "
                "text and audio only. Leave the block out, or describe it in text."
            )


def _is_own_refusal(message: BaseMessage, block: Block) -> bool:
    """Return whether a block repeats the text of an earlier refusal."""
    return message.type == "ai" and block.get("type") == "refusal"


def _text(block: Block, where: str) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise InvalidInputError(
            f"{where} is a text block whose 'text' is a {type(text).__name__}: give "
            "it a string."
        )
    return text


def _sound(block: Block, where: str) -> Sound:
    kind = block["type"]
    if kind == "input_audio":
        return Sound(where=where, data=_openai_audio(block.get("input_audio"), where))
    handle = block.get("file_id") or _legacy_id(block)
    if handle:
        return Sound(where=where, handle=str(handle))
    _refuse_references(block, where)
    mime_type = block.get("mime_type")
    if not mime_type:
        raise InvalidInputError(
            f"{where} is a block of type {kind!r} without a 'mime_type': say what the "
            "data is, for example 'audio/wav'."
        )
    if not str(mime_type).startswith("audio/"):
        raise InvalidInputError(
            f"{where} is a block of type {kind!r} that holds {mime_type}: this model "
            "hears audio only. Give an audio/* type, or leave the block out."
        )
    data = block.get("base64", block.get("data"))
    return Sound(where=where, data=_present(data, where))


def _legacy_id(block: Block) -> object:
    return block.get("id") if block.get("source_type") == "id" else None


def _openai_audio(audio: object, where: str) -> bytes | str:
    found = audio if isinstance(audio, Mapping) else {}
    missing = [key for key in ("data", "format") if not found.get(key)]
    if missing:
        raise InvalidInputError(
            f"{where} is a block of type 'input_audio' without "
            f"{' and '.join(missing)}: it needs "
            '{"input_audio": {"data": "<base64>", "format": "wav"}}.'
        )
    return _present(found["data"], where)


def _refuse_references(block: Block, where: str) -> None:
    """Raise for audio that is somewhere else; nothing is fetched here."""
    for key, what in (
        ("url", "a URL, and URLs are not fetched"),
        ("file_uri", "a URI, and URIs are not fetched"),
    ):
        if block.get(key):
            raise InvalidInputError(
                f"{where} points to its audio by {what}: {_REMEDY}."
            )


def _present(data: object, where: str) -> bytes | str:
    if isinstance(data, (bytes, str)) and data:
        return data
    found = f"a {type(data).__name__}" if data else "none"
    raise InvalidInputError(f"{where} needs its audio data, found {found}: {_REMEDY}.")


def _decode(data: str, where: str) -> bytes:
    try:
        return _decode_in_parts(data)
    except ValueError:
        # Base64 may be wrapped in lines.
        data = "".join(data.split())
    try:
        return _decode_in_parts(data)
    except ValueError as error:
        raise InvalidInputError(
            f"{where} holds data that is not base64 ({error}): encode the file's "
            "bytes with base64.b64encode(...).decode(), without a data: prefix."
        ) from error


def _decode_in_parts(data: str) -> bytes:
    # Other threads, an event loop's among them, get their turn between the parts.
    parts = (data[i : i + _PART] for i in range(0, len(data), _PART))
    return b"".join(base64.b64decode(part, validate=True) for part in parts)
