"""Clips of any kind, as the samples that a model takes.

All sound that reaches a model goes through `load_audio`. It returns mono float32
samples in [-1, 1] at the model's rate, or raises an `AudioError`.
"""

from __future__ import annotations

from sarguard.audio.base64_text import decode_base64
from sarguard.audio.endpointing import Endpointer, EndpointingOptions, pcm_bytes
from sarguard.audio.limits import AudioLimits
from sarguard.audio.loading import load_audio
from sarguard.audio.sources import AudioSource

__all__ = [
    "AudioLimits",
    "AudioSource",
    "Endpointer",
    "EndpointingOptions",
    "decode_base64",
    "load_audio",
    "pcm_bytes",
]
