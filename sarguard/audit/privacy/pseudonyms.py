"""Pseudonyms: keyed hashes of sound, words and people, under a key of their tenant.

A plain hash of a recording is personal data: whoever has the recording can find its
records. A pseudonym needs the tenant's secret too, and tells nothing without it.
Records call it a mark: `text_mark`, `mark_key`.
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
class Pseudonyms:
    """Pseudonyms under one secret; equal content has equal pseudonyms."""

    key_id: str
    """The name of the secret; each record holds it as `mark_key`."""
    secret: bytes = field(repr=False)

    def audio(self, samples: NDArray[np.float32], sample_rate: int) -> str:
        """Return the pseudonym of a clip: 64 hexadecimal digits.

        Args:
            samples: shape (samples,), floats in [-1, 1].
            sample_rate: in Hz; one clip at two rates has two pseudonyms.

        Raises:
            AuditRecordError: if the samples have another shape, or are not finite.
        """
        return self._hmac("audio", f"{sample_rate}\0".encode() + pcm16(samples))

    def text(self, text: str) -> str:
        """Return the pseudonym of a text, however its accents were encoded."""
        return self._hmac("text", _encode(text))

    def session(self, name: str) -> str:
        """Return the pseudonym of a caller's session."""
        return self._hmac("session", _encode(name))

    def actor(self, name: str) -> str:
        """Return the pseudonym of the person or agent who asked."""
        return self._hmac("actor", _encode(name))

    def _hmac(self, kind: str, data: bytes) -> str:
        # The kind keeps a text and a session of the same letters apart.
        message = _DOMAIN + kind.encode() + b"\x00" + data
        return hmac.new(self.secret, message, "sha256").hexdigest()


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """Return samples as 16-bit little-endian bytes, the form that is hashed.

    Raises:
        AuditRecordError: if the samples have another shape, or are not finite.
    """
    array = np.asarray(samples)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise AuditRecordError(
            f"a clip of shape {array.shape} cannot be marked: give finite mono samples"
        )
    # In double precision: the product of a float32 could round another way elsewhere,
    # and a look-up would not find the clip.
    scaled = np.round(array.astype(np.float64) * 32768.0)
    return np.clip(scaled, -32768, 32767).astype("<i2").tobytes()


def _encode(text: str) -> bytes:
    # Not "replace": texts that differ in a lone surrogate would get one pseudonym.
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
