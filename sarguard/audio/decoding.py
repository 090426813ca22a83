"""Decode an encoded clip with libsndfile, a block at a time.

libsndfile reads every container but three; those go through ffmpeg first, where it
is installed.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]

from sarguard.audio import transcoding
from sarguard.audio.containers import (
    MIN_SHARE,
    find_truncation,
    looks_like_text,
    recognise,
)
from sarguard.audio.headerless import guess_headerless
from sarguard.audio.limits import AudioLimits, check_rate
from sarguard.audio.samples import Mono, mix_down
from sarguard.errors import AudioDecodeError

_BLOCK_SAMPLES = 2**20
_HEADERLESS = {
    "PCM_16": "PCM of 16 bits",
    "ULAW": "G.711 mu-law",
    "ALAW": "G.711 A-law",
}
# An encoder's delay and padding, two frames of MP3: they matter in very short clips.
_SLACK_FRAMES = 2 * 1152
# libsndfile reports 2**63 - 1 for a stream of unknown length.
_UNKNOWN_FRAMES = 2**62
# ValueError and TypeError come from soundfile's own checks of a damaged header.
_DECODER_ERRORS = (soundfile.SoundFileError, OSError, ValueError, TypeError)


def decode(data: bytes, *, name: str, limits: AudioLimits) -> tuple[Mono, int]:
    """Decode a file's bytes to mono float32 samples and their rate.

    The header's rate, channels and length are checked against the limits before any
    sound is decoded.

    Raises:
        AudioError: if the bytes are no audio, are damaged, or exceed a limit.
    """
    container = recognise(data)
    if container is None:
        raise AudioDecodeError(_explain_unrecognised(data, name))
    if container in transcoding.CONTAINERS:
        data = transcoding.to_wav(
            data, container=container, name=name, max_seconds=limits.max_seconds
        )
    missing = find_truncation(data)
    if missing is not None:
        raise AudioDecodeError(f"{name} is cut short: {missing}. Send the whole file.")
    with _open(data, name=name) as sound:
        return _read(sound, name=name, limits=limits)


class _ForwardBytes(io.BytesIO):
    """In-memory file that ignores seeks to before its start (damaged headers)."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Seek, or return the current position if the new one is impossible."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class _ForwardSound(soundfile.SoundFile):  # type: ignore[misc]
    """Sound file that is read forwards only.

    soundfile seeks after each read, which fails on a FLAC of unknown length, and it
    reads no further than the header's length, which is 0 for a cut Ogg file.
    """

    def seekable(self) -> bool:
        """Return that it cannot seek."""
        return False


def _open(data: bytes, *, name: str) -> soundfile.SoundFile:
    """Open encoded bytes, which reads their header."""
    try:
        return _ForwardSound(_ForwardBytes(data))
    except _DECODER_ERRORS as error:
        raise _damaged(name, error) from error


def _read(
    sound: soundfile.SoundFile, *, name: str, limits: AudioLimits
) -> tuple[Mono, int]:
    """Check an open sound's header, then decode and mix it down."""
    rate = check_rate(sound.samplerate, name=name)
    limits.check_channels(sound.channels, name=name)
    claimed = sound.frames if 0 < sound.frames < _UNKNOWN_FRAMES else None
    if claimed is not None:
        limits.check_length(claimed, rate, name=name)
    # One frame more than allowed, so that a longer clip is seen to be longer.
    mono = _read_mono(sound, max_frames=limits.max_frames(rate) + 1, name=name)
    if claimed is not None:
        _check_complete(len(mono.samples), claimed, rate=rate, name=name)
    # Again: a header may claim less than what follows it.
    limits.check_length(len(mono.samples), rate, name=name)
    return mono, rate


def _read_mono(sound: soundfile.SoundFile, *, max_frames: int, name: str) -> Mono:
    """Decode up to `max_frames` frames, then mix them down.

    Not block by block: which channel to take, if one has to be, is decided once.
    """
    block_frames = _BLOCK_SAMPLES // sound.channels
    blocks: list[npt.NDArray[np.float32]] = []
    while max_frames > 0:
        try:
            block = sound.read(min(block_frames, max_frames), "float32", always_2d=True)
        except _DECODER_ERRORS as error:
            raise _damaged(name, error) from error
        if len(block) == 0:
            break
        blocks.append(block)
        max_frames -= len(block)
    if not blocks:
        return Mono(np.empty(0, np.float32))
    return mix_down(np.concatenate(blocks), name=name)


def _check_complete(decoded: int, claimed: int, *, rate: int, name: str) -> None:
    """Refuse a clip that ends clearly before its header says."""
    missing = claimed - decoded
    # The slack would cover the whole of a very short clip, so none is an error too.
    if decoded and missing <= max((1 - MIN_SHARE) * claimed, _SLACK_FRAMES):
        return
    raise AudioDecodeError(
        f"{name} is cut short or damaged: its header claims {claimed / rate:.3f} s, "
        f"found {decoded / rate:.3f} s. Send the whole file."
    )


def _damaged(name: str, error: Exception) -> AudioDecodeError:
    """Return the error for bytes that the decoder cannot read."""
    found = getattr(error, "error_string", str(error)).strip()
    return AudioDecodeError(
        f"{name} is damaged: the decoder says {found!r}. Send the whole file, or "
        "export it again."
    )


def _explain_unrecognised(data: bytes, name: str) -> str:
    """Return what the bytes are instead of audio, and what can be decoded here."""
    kind = "text" if looks_like_text(data) else "bytes of no audio format known here"
    found = (
        f"{name} holds {kind}: found {data[:12]!r} at its start. Decoded here: "
        f"{transcoding.describe_decodable()}."
    )
    if looks_like_text(data):
        return found
    guess = guess_headerless(data)
    if guess is None:
        return f"{found} Sound without a header has to be given as (samples, rate)."
    subtype, rate = guess
    return (
        f"{found} This is probably {_HEADERLESS[subtype]} without a header, as sockets "
        "and telephone lines send it. Read it at the line's own rate, samples, rate = "
        f"soundfile.read(io.BytesIO(data), format='RAW', subtype={subtype!r}, "
        f"channels=1, samplerate={rate}), and pass (samples, rate)."
    )
