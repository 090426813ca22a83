"""Frames of MPEG audio and of AAC in ADTS, told from bytes that only begin like one.

Both begin with a dozen bits that are set. So does a negative sample of headerless PCM,
and every telephone's mu-law opens with them, as silence. A frame says how long it is:
where the next one begins as it has to, it was a frame.
"""

from __future__ import annotations

from typing import Literal

# Kilobits a second by index 1 to 14 (ISO/IEC 11172-3 and 13818-3, section 2.4.2.3), for
# layers I, II and III of MPEG-1, and for layer I and the others of MPEG-2.
_FIRST = {
    1: tuple(range(32, 449, 32)),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_SECOND_LAYER_1 = (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)
_SECOND = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44_100, 48_000, 32_000)
_DIVISORS = {0: 4, 2: 2, 3: 1}
"""What divides the rates, by version: MPEG-2.5, MPEG-2 and MPEG-1."""
_ADTS_HEADER, _ADTS_RATES = 7, 13


def recognise_frames(data: bytes) -> Literal["mp3", "aac"] | None:
    """Return what the bytes are frames of, or None."""
    if len(data) < _ADTS_HEADER or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    # ADTS has a layer of 0, and one more bit that is set.
    if data[1] & 0x06:
        size, fixed = _mpeg_size(data), (0xFF, 0xFE, 0x0C)
    elif data[1] & 0xF0 == 0xF0:
        size, fixed = _adts_size(data), (0xFF, 0xFE, 0xFC)
    else:
        return None
    following = data[size : size + 3]
    # A clip of a single frame, or one that was cut in its first, has no next one.
    same = all(
        byte & mask == first & mask
        for byte, first, mask in zip(following, data, fixed, strict=False)
    )
    if not size or not same:
        return None
    return "mp3" if data[1] & 0x06 else "aac"


def _mpeg_size(data: bytes) -> int:
    """Return how long an MPEG audio frame is in bytes; 0 if the header is none."""
    version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
    bitrate, rate, padding = data[2] >> 4, data[2] >> 2 & 3, data[2] >> 1 & 1
    if version not in _DIVISORS or not 0 < bitrate < 15 or rate == 3:
        return 0
    if version == 3:
        kilobits = _FIRST[layer][bitrate - 1]
    else:
        kilobits = (_SECOND_LAYER_1 if layer == 1 else _SECOND)[bitrate - 1]
    hertz = _RATES[rate] // _DIVISORS[version]
    if layer == 1:
        return (12_000 * kilobits // hertz + padding) * 4
    halved = layer == 3 and version != 3
    return (72_000 if halved else 144_000) * kilobits // hertz + padding


def _adts_size(data: bytes) -> int:
    """Return how long an ADTS frame is in bytes; 0 if the header is none."""
    if data[2] >> 2 & 15 >= _ADTS_RATES:
        return 0
    size = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    return size if size > _ADTS_HEADER else 0
