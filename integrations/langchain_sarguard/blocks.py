"""From the content of a LangChain message to text and encoded clips.

Four shapes of audio are understood; langchain-core rewrites the second and the third
to the first before a chat model sees them, and leaves the fourth alone:

    {"type": "audio", "base64": "...", "mime_type": "audio/wav"}
    {"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}
    {"type": "audio", "source_type": "base64", "data": "...", "mime_type": "audio/wav"}
    {"type": "media", "data": "...", "mime_type": "audio/wav"}
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

Block: TypeAlias = Mapping[str, Any]

_AUDIO = ("audio", "input_audio", "media")
_REMEDY = (
    'pass the sound itself as {"type": "audio", "base64": "...", '
    '"mime_type": "audio/wav"}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Hold an encoded clip and the place where it was found."""

    where: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Hold what one message says, its clips apart from its text."""

    text: str
    clips: tuple[Clip, ...] = ()


def read_content(message: BaseMessage, *, where: str) -> Content:
    """Return the text and the clips of a message.

    Args:
        message: Its text blocks are joined with line breaks.
        where: What to call the message in an error.

    Raises:
        ValueError: A block is of an unknown type, or lacks what its type needs.
    """
    content = message.content
    blocks = [content] if isinstance(content, str) else content
    texts: list[str] = []
    clips: list[Clip] = []
    for index, block in enumerate(blocks):
        place = f"{where}.content[{index}]"
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") == "text":
            texts.append(_text(block, place))
        elif block.get("type") in _AUDIO:
            clips.append(Clip(where=place, data=_audio(block, place)))
        elif not _is_own_refusal(message, block):
            raise ValueError(
                f"{place} is a block of type {block.get('type')!r}: this model takes "
                "text and audio only. Leave the block out, or describe it in text."
            )
    return Content(text="\n".join(texts), clips=tuple(clips))


def _is_own_refusal(message: BaseMessage, block: Block) -> bool:
    """Return whether a block repeats the text of an earlier refusal."""
    return message.type == "ai" and block.get("type") == "refusal"


def _text(block: Block, where: str) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise ValueError(
            f"{where} is a text block whose 'text' is a {type(text).__name__}: give "
            "it a string."
        )
    return text


def _audio(block: Block, where: str) -> bytes:
    kind = block["type"]
    if kind == "input_audio":
        return _openai_audio(block.get("input_audio"), where)
    _refuse_references(block, where)
    mime_type = block.get("mime_type")
    if not mime_type:
        raise ValueError(
            f"{where} is a block of type {kind!r} without a 'mime_type': say what the "
            "data is, for example 'audio/wav'."
        )
    if not str(mime_type).startswith("audio/"):
        raise ValueError(
            f"{where} is a block of type {kind!r} that holds {mime_type}: this model "
            "hears audio only. Give an audio/* type, or leave the block out."
        )
    return _decode(block.get("base64", block.get("data")), where)


def _openai_audio(audio: object, where: str) -> bytes:
    found = audio if isinstance(audio, Mapping) else {}
    missing = [key for key in ("data", "format") if not found.get(key)]
    if missing:
        raise ValueError(
            f"{where} is a block of type 'input_audio' without "
            f"{' and '.join(missing)}: it needs "
            '{"input_audio": {"data": "<base64>", "format": "wav"}}.'
        )
    return _decode(found["data"], where)


def _refuse_references(block: Block, where: str) -> None:
    """Raise for audio that is somewhere else; nothing is fetched here."""
    for key, what in (
        ("url", "a URL, and URLs are not fetched"),
        ("file_uri", "a URI, and URIs are not fetched"),
        ("file_id", "a file id, and there is no file store to look it up in"),
    ):
        if block.get(key):
            raise ValueError(f"{where} points to its audio by {what}: {_REMEDY}.")


def _decode(data: object, where: str) -> bytes:
    if isinstance(data, bytes) and data:
        return data
    if not isinstance(data, str) or not data:
        found = f"a {type(data).__name__}" if data else "none"
        raise ValueError(f"{where} needs its audio data, found {found}: {_REMEDY}.")
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{where} holds data that is not base64 ({error}): encode the file's "
            "bytes with base64.b64encode(...).decode(), without a data: prefix."
        ) from error
