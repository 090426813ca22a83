"""A chosen serial number for an Ogg stream, so that encoding is reproducible.

An encoder draws the number at random. Every page carries it and a checksum over the
page (RFC 3533, section 6); both are rewritten here.
"""

from __future__ import annotations

import struct

from sarguard.errors import AudioDecodeError

_HEADER = 27
_SERIAL = slice(14, 18)
_CHECKSUM = slice(22, 26)
_POLYNOMIAL = 0x04C11DB7


def renumber(stream: bytes, serial: int) -> bytes:
    """Return the Ogg stream with another serial number on every page.

    Args:
        stream: Whole pages of one logical stream.
        serial: Number from 0 to 2**32 - 1.

    Raises:
        AudioDecodeError: The bytes are not whole Ogg pages.
    """
    pages = bytearray()
    position = 0
    while position < len(stream):
        end = _page_end(stream, position)
        pages += _renumber_page(stream[position:end], serial)
        position = end
    return bytes(pages)


def _page_end(stream: bytes, position: int) -> int:
    header = stream[position : position + _HEADER]
    if len(header) < _HEADER or header[:4] != b"OggS":
        raise AudioDecodeError(
            f"Found no Ogg page at byte {position}. Encode it again."
        )
    segments = stream[position + _HEADER : position + _HEADER + header[-1]]
    end = position + _HEADER + header[-1] + sum(segments)
    if end > len(stream):
        raise AudioDecodeError(
            f"The Ogg page at byte {position} is cut off. Encode the clip again."
        )
    return end


def _renumber_page(page: bytes, serial: int) -> bytes:
    changed = bytearray(page)
    changed[_SERIAL] = struct.pack("<I", serial)
    changed[_CHECKSUM] = bytes(4)
    changed[_CHECKSUM] = struct.pack("<I", _checksum(changed))
    return bytes(changed)


def _checksum(page: bytes | bytearray) -> int:
    value = 0
    for byte in page:
        value = (value << 8) & 0xFFFFFFFF ^ _TABLE[(value >> 24) ^ byte]
    return value


def _table_entry(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        carry = value & 0x80000000
        value = (value << 1) & 0xFFFFFFFF ^ (_POLYNOMIAL if carry else 0)
    return value


_TABLE = tuple(_table_entry(byte) for byte in range(256))
