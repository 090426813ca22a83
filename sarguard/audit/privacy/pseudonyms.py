"""Name sound, words and people by keyed hashes, under a key of their tenant.

A plain hash of a voice is personal data: whoever has the recording can find its
records. A mark needs the tenant's secret too, and means nothing once that is gone.
"""

from __future__ import annotations

import hmac
import unicodedata
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sarguard.errors import AuditRecordError

_DOMAIN = b"sarguard mark v1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Make marks under one secret; equal content has equal marks under one key."""

    key_id: str
    """The name of the secret; it stands in each record beside its marks."""
    secret: bytes = field(repr=False)

    def audio(self, samples: NDArray[np.float32], sample_rate: int) -> str:
        """Return the mark of a clip.

        Args:
            samples: shape (samples,), floats in [-1, 1].
            sample_rate: in Hz; one clip at two rates has two marks.

        Raises:
            AuditRecordError: if the samples have another shape, or are not finite.
        """
        return self._mark("audio", f"{sample_rate}\0".encode() + pcm16(samples))

    def text(self, text: str) -> str:
        """Return the mark of a text, whichever way its accents were written."""
        return self._mark("text", _encode(text))

    def session(self, name: str) -> str:
        """Return the mark of a caller's session."""
        return self._mark("session", _encode(name))

    def actor(self, name: str) -> str:
        """Return the mark of the person or agent who asked."""
        return self._mark("actor", _encode(name))

    def _mark(self, what: str, data: bytes) -> str:
        message = _DOMAIN + what.encode() + b"\x00" + data
        return hmac.new(self.secret, message, "sha256").hexdigest()


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """Return samples as 16-bit little-endian bytes, the form that marks are made of.

    Raises:
        AuditRecordError: if the samples have another shape, or are not finite.
    """
    array = np.asarray(samples)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise AuditRecordError(
            f"a clip of shape {array.shape} cannot be marked: give finite mono samples"
        )
    scaled = np.round(array.astype(np.float64) * 32768.0)
    return np.clip(scaled, -32768, 32767).astype("<i2").tobytes()


def _encode(text: str) -> bytes:
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
