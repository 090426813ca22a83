"""A clip's bytes, read from wherever the caller keeps them, within a limit."""

from __future__ import annotations

import io
import os
import re
import stat
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from sarguard.audio.base64_text import (
    DATA_URI,
    decode_base64,
    is_base64_sound,
    is_data_uri,
)
from sarguard.audio.limits import AudioLimits
from sarguard.errors import (
    AudioDecodeError,
    AudioError,
    AudioFormatError,
    AudioNotFoundError,
)

AudioSource: TypeAlias = (
    str | os.PathLike[str] | bytes | BinaryIO | tuple[npt.NDArray[Any], int]
)
"""A path, the bytes of a file, the same as base64 (a `data:` URI or plain), an open
binary file, or (samples, rate in Hz) with the samples in a numpy array or a torch
tensor."""

# pathlib folds the two slashes of a URL into one.
_URL = re.compile(r"(?i)(?:[a-z][a-z0-9+.-]+://|(?:https?|ftp|s3|gs|file):/|data:\w)")
_MAX_SHOWN = 120
_LONGEST_PATH = 4096


def read_source(source: object, *, limits: AudioLimits) -> tuple[bytes, str]:
    """Return a source's bytes and what to call it in an error.

    At most `limits.max_bytes` + 1 bytes are read from anything.

    Raises:
        AudioError: if the source is missing, unreadable, empty, too large or of an
            unknown kind.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        name = f"The clip of {memoryview(source).nbytes:,} bytes"
        limits.check_bytes(memoryview(source).nbytes, name=name)
        # A copy of what can change: a caller may go on writing into a bytearray.
        return bytes(source), name
    # The bytes are in the text itself, so nothing is fetched.
    if isinstance(source, str) and (is_data_uri(source) or is_base64_sound(source)):
        return _read_base64(source, limits=limits)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, limits=limits)
    if callable(getattr(source, "read", None)):
        return _read_file(source, limits=limits)
    raise AudioFormatError(_explain_unknown(source))


def _read_base64(text: str, *, limits: AudioLimits) -> tuple[bytes, str]:
    """Decode base64, after a check of its size."""
    name = "The base64 clip"
    # Three bytes for every four characters; up to a tenth may be head and line ends.
    limits.check_bytes(int(len(text) * 0.67) - 1024, name=name)
    data = decode_base64(text, name=name)
    limits.check_bytes(len(data), name=name)
    return data, name


def _explain_unknown(source: object) -> str:
    """Return what to pass instead of something that is not a source."""
    if isinstance(source, np.ndarray):
        return (
            f"An array of shape {source.shape} came without its sample rate: pass "
            "the tuple (array, rate)."
        )
    return (
        f"A {type(source).__name__} is not a clip: pass a path, bytes, a binary file "
        "or (array, rate)."
    )


def _read_path(
    source: str | os.PathLike[str], *, limits: AudioLimits
) -> tuple[bytes, str]:
    """Read a regular file, after a check of its size."""
    path = os.fsdecode(source)
    # What follows the head of a `data:` URI may be sound.
    name = "A data: URI that is not base64" if DATA_URI.match(path) else _shorten(path)
    if _URL.match(path):
        raise AudioNotFoundError(
            f"{name} is a URL, and URLs are not fetched here. Fetch it first, then "
            "pass the bytes or a local path."
        )
    try:
        found = os.stat(path)
        # A pipe or a device could block for ever, or never end.
        if not stat.S_ISREG(found.st_mode):
            raise AudioNotFoundError(_explain_special(name, found.st_mode))
        limits.check_bytes(found.st_size, name=name)
        with open(path, "rb") as file:
            # Bounded as well as checked: the file may have grown in between.
            return _read_at_most(file, limits=limits, name=name), name
    except AudioError:
        raise
    except FileNotFoundError as error:
        raise AudioNotFoundError(
            f"{name} does not exist. Check the path; a relative one starts at the "
            "working directory."
        ) from error
    except OSError as error:
        raise AudioNotFoundError(
            f"{name} cannot be read: {error.strerror}. Check the path and its "
            "permissions."
        ) from error
    except ValueError as error:
        raise AudioNotFoundError(
            f"{name} is not a path: {error}. Pass a path, or the clip as bytes."
        ) from error


def _explain_special(name: str, mode: int) -> str:
    """Return what is at a path instead of a file."""
    if stat.S_ISDIR(mode):
        return f"{name} is a directory. Pass the path of one audio file."
    return (
        f"{name} is not a regular file, so its size is unknown. Open it yourself and "
        "pass the file object."
    )


def _read_file(source: Any, *, limits: AudioLimits) -> tuple[bytes, str]:  # noqa: ANN401
    """Read an open binary file from its current position."""
    label = getattr(source, "name", None)
    name = _shorten(label) if isinstance(label, str) else "The file object"
    try:
        return _read_at_most(source, limits=limits, name=name), name
    except AudioError:
        raise
    # The object is the caller's own, and may raise anything.
    except Exception as error:
        raise AudioDecodeError(
            f"{name} cannot be read: {type(error).__name__}: {error}. Pass a file "
            "opened for reading in binary mode."
        ) from error


def _read_at_most(file: Any, *, limits: AudioLimits, name: str) -> bytes:  # noqa: ANN401
    """Read a file to its end, or to one byte past the limit."""
    buffer = io.BytesIO()
    # read() may give less than was asked for and still not be at the end.
    while buffer.tell() <= limits.max_bytes:
        chunk = file.read(limits.max_bytes + 1 - buffer.tell())
        if not chunk:
            break
        if isinstance(chunk, str):
            raise AudioFormatError(
                f"{name} was opened in text mode. Open it with open(path, 'rb')."
            )
        buffer.write(chunk)
    limits.check_bytes(buffer.tell(), name=name)
    return buffer.getvalue()


def _shorten(path: str) -> str:
    """Quote a path for an error, shortened where it is very long."""
    if len(path) > _LONGEST_PATH:
        # No path on any system: what it is instead may be sound.
        return f"A text of {len(path):,} characters"
    return repr(path if len(path) <= _MAX_SHOWN else path[:_MAX_SHOWN] + "...")
