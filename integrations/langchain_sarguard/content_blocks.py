"""Content blocks: text and encoded clips, parsed from the content of a message.

Five audio blocks are understood; langchain-core rewrites the third and the fourth to
the second before a chat model sees them:

    {"type": "audio", "file_id": "sar_..."}  # in an `AudioStore`
    {"type": "audio", "base64": "...", "mime_type": "audio/wav"}
    {"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}
    {"type": "audio", "source_type": "base64", "data": "...", "mime_type": "audio/wav"}
    {"type": "media", "data": "...", "mime_type": "audio/wav"}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_sarguard.errors import InvalidInputError
from sarguard.audio import decode_base64

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

Block: TypeAlias = Mapping[str, Any]

_AUDIO_TYPES = ("audio", "input_audio", "media")
_REMEDY = (
    'pass the sound itself as {"type": "audio", "base64": "...", '
    '"mime_type": "audio/wav"}, or make the message with audio_message()'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioPart:
    """Clip of a message, as data or as a handle, and where it was found."""

    where: str
    data: bytes | str | None = None
    """Encoded audio, as bytes or as their base64."""
    handle: str | None = None

    def read(self) -> bytes:
        """Return the clip's bytes; long clips take a while to decode.

        Raises:
            InvalidInputError: The data is not base64.
        """
        if not isinstance(self.data, str):
            return self.data or b""
        try:
            return decode_base64(self.data, name=self.where)
        except ValueError as error:
            raise InvalidInputError(str(error)) from None


def parse_content(message: BaseMessage, *, where: str) -> Iterator[str | AudioPart]:
    """Yield the texts and clips of a message, one for each block.

    Args:
        message: Any message.
        where: Name of the message in errors.

    Raises:
        InvalidInputError: A block is of an unknown type, or lacks what its type needs.
    """
    content = message.content
    blocks = [content] if isinstance(content, str) else content
    for index, block in enumerate(blocks):
        place = f"{where}.content[{index}]"
        if isinstance(block, str):
            yield block
        elif block.get("type") == "text":
            yield _text(block, place)
        elif block.get("type") in _AUDIO_TYPES:
            yield parse_block(block, place)
        elif message.type == "ai" and block.get("type") == "refusal":
            # One of ours, in the history: it repeats the text block before it.
            yield ""
        else:
            raise InvalidInputError(
                f"{place} is a block of type {block.get('type')!r}: this model takes "
                "text and audio only. Leave the block out, or describe it in text."
            )


def _text(block: Block, where: str) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise InvalidInputError(
            f"{where} is a text block whose 'text' is a {type(text).__name__}: give "
            "it a string."
        )
    return text


def is_audio_block(value: Mapping[Any, Any]) -> bool:
    """Return whether this is a content block of audio."""
    return value.get("type") in _AUDIO_TYPES


def parse_block(block: Block, where: str) -> AudioPart:
    """Return the clip of an audio block.

    Raises:
        InvalidInputError: It lacks what its type needs.
    """
    kind = block["type"]
    if kind == "input_audio":
        return AudioPart(
            where=where, data=_openai_audio(block.get("input_audio"), where)
        )
    legacy = block.get("id") if block.get("source_type") == "id" else None
    if handle := block.get("file_id") or legacy:
        return AudioPart(where=where, handle=str(handle))
    _refuse_references(block, where)
    # What it says of the data is not read: browsers call sound "video/webm", and the
    # bytes say what they are.
    data = block.get("base64", block.get("data"))
    return AudioPart(where=where, data=_check_data(data, where))


def _openai_audio(audio: object, where: str) -> bytes | str:
    found = audio if isinstance(audio, Mapping) else {}
    if not found.get("data"):
        raise InvalidInputError(
            f"{where} is a block of type 'input_audio' without data: it needs "
            '{"input_audio": {"data": "<base64>", "format": "wav"}}.'
        )
    return _check_data(found["data"], where)


def _refuse_references(block: Block, where: str) -> None:
    """Refuse audio that is elsewhere.

    Nothing is fetched: a URL in a message comes from whoever wrote the message, and
    could point into the network of the process that answers.
    """
    for key, what in (
        ("url", "a URL, and URLs are not fetched"),
        ("file_uri", "a URI, and URIs are not fetched"),
    ):
        if block.get(key):
            raise InvalidInputError(
                f"{where} points to its audio by {what}: {_REMEDY}."
            )


def _check_data(data: object, where: str) -> bytes | str:
    if isinstance(data, (bytes, str)) and data:
        return data
    found = f"a {type(data).__name__}" if data else "none"
    raise InvalidInputError(f"{where} needs its audio data, found {found}: {_REMEDY}.")
