"""Containers that libsndfile cannot read, converted to WAV by ffmpeg.

ffmpeg is optional. It gets the bytes through a pipe, may open nothing else but its
own cache of them (a phone writes an m4a's index at the end), and stops just past the
limit on seconds.
"""

from __future__ import annotations

import shutil
import subprocess

from sarguard.errors import AudioDecodeError, AudioTooLongError

CONTAINERS = {"m4a": "mov", "aac": "aac", "webm": "matroska"}
"""The containers that need ffmpeg, and the demuxer that each is pinned to."""

_TIMEOUT_S = 30.0
_MAX_OUTPUT_BYTES = 256 * 2**20
_MAX_ALLOC_BYTES = 256 * 2**20
_NATIVE = "wav, flac, ogg (vorbis, opus), mp3, aiff, au, caf"


def describe_decodable() -> str:
    """Return the formats that can be decoded here, as text."""
    if shutil.which("ffmpeg") is None:
        return f"{_NATIVE} (m4a, aac and webm once ffmpeg is on PATH)"
    return f"{_NATIVE}, and through ffmpeg m4a, aac and webm"


def to_wav(data: bytes, *, container: str, name: str, max_seconds: float) -> bytes:
    """Decode a clip to a float WAV with its own rate and channels.

    Args:
        data: the encoded clip.
        container: a key of `CONTAINERS`.
        name: what to call the clip in an error.
        max_seconds: the longest clip taken; one second more is decoded, so that a
            longer clip is detected.

    Raises:
        AudioDecodeError: if ffmpeg is missing, fails, or takes too long.
        AudioTooLongError: if the decoded clip exceeds the memory set aside for it.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioDecodeError(
            f"{name} is {container}, which needs ffmpeg, and ffmpeg is not on PATH. "
            f"Install it or convert the clip. Decoded here: {describe_decodable()}."
        )
    try:
        done = subprocess.run(
            _command(program, container, max_seconds),
            input=data,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AudioDecodeError(
            f"{name} took ffmpeg more than {_TIMEOUT_S:g} s. Convert it to WAV or "
            "FLAC first."
        ) from error
    except OSError as error:
        raise AudioDecodeError(
            f"{name} needs ffmpeg, which did not start: {error}. Repair {program}, "
            "or convert the clip to WAV or FLAC first."
        ) from error
    # A truncated webm is the one damage that ffmpeg reports and still exits with 0.
    if done.returncode != 0 or b"ended prematurely" in done.stderr:
        raise AudioDecodeError(
            f"{name} is damaged: ffmpeg says {_last_error(done.stderr)!r}. Send "
            "the whole file, or export it again."
        )
    # At the size limit (-fs) ffmpeg stops without an error.
    if len(done.stdout) >= _MAX_OUTPUT_BYTES:
        raise AudioTooLongError(
            f"{name} decodes to {_MAX_OUTPUT_BYTES:,} bytes or more, the limit for "
            "what ffmpeg may return. Cut it, or send fewer channels."
        )
    return done.stdout


def _command(program: str, container: str, max_seconds: float) -> list[str]:
    """Return the command that converts one container on stdin to WAV on stdout."""
    return [
        # It stops at the first error: by default ffmpeg goes on with what it can read.
        *(program, "-v", "error", "-hide_banner", "-nostdin", "-xerror"),
        *("-max_alloc", str(_MAX_ALLOC_BYTES), "-threads", "1"),
        # A file can name other files and addresses, which ffmpeg would otherwise open.
        *("-protocol_whitelist", "cache,pipe", "-read_ahead_limit", "-1"),
        *("-f", CONTAINERS[container], "-i", "cache:pipe:0", "-map", "0:a:0"),
        *("-t", str(max_seconds + 1)),
        # Float samples, as lossy codecs decode to values beyond full scale.
        *("-fs", str(_MAX_OUTPUT_BYTES), "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"),
    ]


def _last_error(stderr: bytes) -> str:
    """Return the last line that ffmpeg wrote about the clip itself."""
    lines = [
        line
        for line in stderr.decode(errors="replace").splitlines()
        # These are about the cache and about repetition, not about the clip.
        if not line.lstrip().startswith(("[cache", "Last message", "To ignore"))
    ]
    return lines[-1].strip() if lines else "nothing"
