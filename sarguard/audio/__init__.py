"""Turn any clip an application holds into the samples a model hears.

`load_audio` is the only door through which sound reaches a model. It gives back
mono float32 samples in [-1, 1] at the model's rate, or raises an `AudioError`.
"""

from __future__ import annotations

from sarguard.audio.limits import AudioLimits
from sarguard.audio.loading import load_audio
from sarguard.audio.sources import AudioSource

__all__ = ["AudioLimits", "AudioSource", "load_audio"]
