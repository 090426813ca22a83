"""Sound written as base64, alone or in a `data:` URI, however it was wrapped."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote_to_bytes

from sarguard.audio.containers import recognise
from sarguard.errors import AudioDecodeError

DATA_URI = re.compile(r"(?i)\s*data:")
"""How any `data:` URI begins."""
_ALPHABET = re.compile(r"[A-Za-z0-9+/_=\s-]+")
_SHORTEST = 256
"""Characters from which on a text may be sound rather than a path."""
_LONGEST_HEAD = 1024
# Characters that are decoded at once: a multiple of 4, so that each piece is valid by
# itself.
_PIECE = 2**20


def is_data_uri(text: str) -> bool:
    """Return whether a text is a `data:` URI whose payload is base64."""
    return _head_end(text) > 0


def is_base64_sound(text: str) -> bool:
    """Return whether a text, which may as well be a path, is base64 of a sound file."""
    if len(text) < _SHORTEST or not _ALPHABET.fullmatch(text[:_SHORTEST]):
        return False
    letters = "".join(text[:_SHORTEST].split())
    try:
        start = decode_base64(letters[: len(letters) // 4 * 4], name="The start")
    except AudioDecodeError:
        return False
    return recognise(start) is not None


def decode_base64(text: str, *, name: str) -> bytes:
    """Return the bytes of base64 text.

    A `data:` URI's head, line ends and spaces, missing padding and the alphabet of URLs
    are all taken; what the head calls the bytes is not read.

    Args:
        text: Base64, or a `data:` URI.
        name: What to call the clip in an error.

    Raises:
        AudioDecodeError: It is not base64. Nothing of the text is in the error.
    """
    body = text[_head_end(text) :]
    if "%" in body[:_LONGEST_HEAD] or "%" in body[-_LONGEST_HEAD:]:
        body = unquote_to_bytes(body).decode("latin-1")
    body = "".join(body.split()).rstrip("=").translate(_FROM_URL)
    body += "=" * (-len(body) % 4)
    # The decoder keeps the interpreter's lock: between two pieces, other threads run,
    # an event loop's among them.
    pieces = (body[i : i + _PIECE] for i in range(0, len(body), _PIECE))
    try:
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except ValueError as error:
        raise AudioDecodeError(
            f"{name} is not base64: {error}. Encode the file's bytes again."
        ) from None


_FROM_URL = str.maketrans("-_", "+/")


def _head_end(text: str) -> int:
    """Return where a `data:` URI's payload begins; 0 where there is no such head."""
    if not DATA_URI.match(text):
        return 0
    # A head may hold a quoted list, with commas; base64 has none.
    end = text.rfind(",", 0, _LONGEST_HEAD)
    head = "".join(text[:end].split()).lower()
    return end + 1 if end > 0 and head.endswith(";base64") else 0
