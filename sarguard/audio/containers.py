"""The container of an encoded clip, by its first bytes.

Only containers named here reach a decoder: if the decoder guessed, anybody who can
send a clip could reach its rarest and least tested formats.
"""

from __future__ import annotations

import struct
from typing import Literal, TypeAlias

from sarguard.audio.mpeg import recognise_frames

Container: TypeAlias = Literal[
    "wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "m4a", "aac", "webm"
]

# RIFF and AIFF name their kind after a size, an MP4 file its first box. The last entry
# is the header of EBML, in which Matroska and WebM are written.
_MAGICS: tuple[tuple[int, bytes, Container], ...] = (
    (8, b"WAVE", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (8, b"AIFF", "aiff"),
    (8, b"AIFC", "aiff"),
    (0, b".snd", "au"),
    (0, b"caff", "caf"),
    (4, b"ftyp", "m4a"),
    (0, b"\x1a\x45\xdf\xa3", "webm"),
)
MIN_SHARE = 0.9
"""Share of the announced sound that a clip must hold; encoders pad the last frame."""

# RIFX is RIFF with its numbers big-endian; AIFF's are big-endian always.
_RIFF_KINDS: dict[bytes, tuple[str, bytes]] = {
    b"RIFF": ("<I", b"data"),
    b"RIFX": (">I", b"data"),
    b"FORM": (">I", b"SSND"),
}
# Recorders that write to a pipe cannot seek back to fill in the size.
_UNFILLED_SIZE = 0x7FFF0000
# Up to the count of segments, whose lengths follow (RFC 3533, section 6).
_OGG_HEADER_BYTES = 27
# With the head of the next one; 13 bits hold its length in ADTS.
_LONGEST_FRAME = 2**13 + 16


def recognise(data: bytes) -> Container | None:
    """Return the container of an encoded clip, or None if it is not decoded here."""
    if data[:3] == b"ID3":
        return recognise(_after_id3(data)) or "mp3"
    for offset, magic, container in _MAGICS:
        if data[offset : offset + len(magic)] == magic:
            return container
    return recognise_frames(data)


def find_truncation(data: bytes) -> str | None:
    """Return what is missing of a truncated WAV, AIFF or Ogg file.

    Decoders take the end of such a file for the end of the sound, which hides a
    broken upload. The other containers fail when they are decoded.

    Returns:
        What was found, or None for a complete file.
    """
    if data[:4] == b"OggS":
        return None if _last_page_is_whole(data) else "its last Ogg page is incomplete"
    share = _present_share(data)
    if share >= MIN_SHARE:
        return None
    return f"found {share:.0%} of the sound that its header announces"


def looks_like_text(data: bytes) -> bool:
    """Return whether a file's first bytes are plain text."""
    head = data[:512]
    return all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head) and (
        sum(byte < 0x7F for byte in head) >= 0.7 * len(head)
    )


def _last_page_is_whole(data: bytes) -> bool:
    """Return whether an Ogg file's last page is as long as its header announces."""
    page = data[data.rfind(b"OggS") :]
    if len(page) < _OGG_HEADER_BYTES:
        return False
    segments = page[_OGG_HEADER_BYTES - 1]
    sizes = page[_OGG_HEADER_BYTES : _OGG_HEADER_BYTES + segments]
    announced = _OGG_HEADER_BYTES + segments + sum(sizes)
    return len(sizes) == segments and len(page) >= announced


def _present_share(data: bytes) -> float:
    """Return the share of its announced sound that a WAV or AIFF file holds."""
    kind = _RIFF_KINDS.get(data[:4])
    if kind is None:
        return 1.0
    size_format, sound_id = kind
    at = 12
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(size_format, data, at + 4)
        if data[at : at + 4] == sound_id:
            unknown = size == 0 or size >= _UNFILLED_SIZE
            return 1.0 if unknown else (len(data) - at - 8) / size
        # A chunk of an odd length is padded by one byte, which its size leaves out.
        at += 8 + size + size % 2
    return 1.0


def _after_id3(data: bytes) -> bytes:
    """Return what comes first after an ID3v2 tag, whose size has 7 bits a byte."""
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    # A second tag is not followed: no recursion that a crafted file could drive.
    rest = data[10 + size : 10 + size + _LONGEST_FRAME]
    return b"" if rest[:3] == b"ID3" else rest
