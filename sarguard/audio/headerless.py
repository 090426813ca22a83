"""What sound without a header probably is; an error names it, nothing decodes it."""

from __future__ import annotations

import io
import math

import soundfile  # type: ignore[import-untyped]

_LOOKED_AT = 2**16
_LEAST_SAMPLES = 256
_LIKE_SPEECH = 0.6
"""Correlation of neighbouring samples. Speech has 0.8 and more at any usual rate, bytes
of something else and sound in another encoding about none."""

Guess = tuple[str, int]


def guess_headerless(data: bytes) -> Guess | None:
    """Return what bytes run most like, as libsndfile's subtype and a usual rate."""
    size = len(data[:_LOOKED_AT]) // 2 * 2
    found = {
        (subtype, rate): _smoothness(data[:size], subtype)
        for subtype, rate in (("PCM_16", 16_000), ("ULAW", 8_000), ("ALAW", 8_000))
    }
    best = max(found, key=lambda guess: found[guess])
    return best if found[best] >= _LIKE_SPEECH else None


def _smoothness(data: bytes, subtype: str) -> float:
    """Return the correlation of neighbouring samples, -1 to 1."""
    samples, _ = soundfile.read(
        io.BytesIO(data), format="RAW", subtype=subtype, channels=1, samplerate=8_000
    )
    if len(samples) < _LEAST_SAMPLES:
        return 0.0
    centred = samples - samples.mean()
    power = float(centred @ centred)
    shared = float(centred[:-1] @ centred[1:])
    return shared / power if power > 0 and math.isfinite(shared) else 0.0
