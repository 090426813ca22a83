"""Changes of a clip: what a line, a room or an attacker does to it.

Samples are mono float32 of shape (samples,); what comes back has a peak of at most 0.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sarguard.errors import InsufficientDataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sarguard.evaluation.data.items import Samples

PEAK = 0.8
TELEPHONE_RATE = 8_000
"""Samples a second on a telephone line (ITU-T G.711)."""

_MAX_S = 29.0
"""No padding makes a clip longer: models of the Whisper kind hear 30 s."""
_MU_LAW_BIAS = 33
_MU_LAW_CLIP = 8158
_MU_LAW_SEGMENTS = (63, 127, 255, 511, 1023, 2047, 4095)
"""Largest biased magnitude of each segment but the last."""
_MIN_PAUSE_S = 0.02
_PASSING_S = 4.0


def within(samples: NDArray[Any]) -> Samples:
    """Return samples as float32 with a peak of at most 0.8."""
    import numpy as np

    peak = float(np.abs(samples).max(initial=0.0))
    scale = PEAK / peak if peak > PEAK else 1.0
    found: Samples = (samples * scale).astype(np.float32)
    return found


def mu_law(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Return samples in [-1, 1] after a mu-law codec.

    The codec is that of ITU-T G.711: 14 bits are kept in eight segments of sixteen
    steps, the finer the quieter.
    """
    import numpy as np

    whole = np.floor(np.asarray(samples) * 8192).astype(np.int64)
    biased = np.minimum(np.abs(whole), _MU_LAW_CLIP) + _MU_LAW_BIAS
    segment = np.searchsorted(_MU_LAW_SEGMENTS, biased, side="left")
    step = (biased >> (segment + 1)) & 0xF
    decoded = (((step << 1) + _MU_LAW_BIAS) << segment) - _MU_LAW_BIAS
    found: NDArray[np.float64] = np.where(whole < 0, -decoded, decoded) / 8192.0
    return found


def over_telephone(samples: Samples, rate: int) -> Samples:
    """Return a clip as a telephone line passes it on: 300 to 3400 Hz, 8 kHz, mu-law."""
    import librosa
    from scipy.signal import butter, sosfiltfilt  # type: ignore[import-untyped]

    narrow = librosa.resample(samples, orig_sr=rate, target_sr=TELEPHONE_RATE)
    filters = butter(
        4, [300.0, 3400.0], btype="bandpass", fs=TELEPHONE_RATE, output="sos"
    )
    coded = mu_law(within(sosfiltfilt(filters, narrow)))
    wide = librosa.resample(coded, orig_sr=TELEPHONE_RATE, target_sr=rate)
    return within(_of_length(wide, len(samples)))


def add_sound(samples: Samples, noise: NDArray[Any], *, decibels: float) -> Samples:
    """Return a clip with a noise, its power that many decibels above the noise's.

    Args:
        samples: The clip.
        noise: Repeated or cut to the clip's length.
        decibels: Signal-to-noise ratio.
    """
    import numpy as np

    fitted = np.resize(np.asarray(noise, dtype=np.float64), len(samples))
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    wanted = power / 10 ** (decibels / 10)
    scale = np.sqrt(wanted / max(float(np.mean(fitted**2)), 1e-20))
    return within(samples + scale * fitted)


def mix_voices(voices: Sequence[Samples], length: int) -> Samples:
    """Return voices that talk at once, each equally loud, of a length in samples.

    Raises:
        InsufficientDataError: There is no voice.
    """
    import numpy as np

    if not voices:
        raise InsufficientDataError("no voice to mix: give at least one clip")
    total = np.zeros(length)
    for place, voice in enumerate(voices):
        power = float(np.mean(np.square(voice, dtype=np.float64)))
        # Each from another place: they would pause together otherwise.
        begun = np.roll(voice, place * len(voice) // len(voices))
        total += np.resize(begun, length) / max(power, 1e-12) ** 0.5
    return within(total)


def street_noise(length: int, rate: int, *, seed: int) -> Samples:
    """Return traffic: a rumble that swells as vehicles pass, and a hiss of tyres."""
    import numpy as np

    draw = np.random.default_rng(seed)
    spectrum = np.fft.rfft(draw.standard_normal(length))
    hertz = np.fft.rfftfreq(length, 1 / rate)
    # Falls by 6 dB an octave above 100 Hz, as engines do, with a floor for the tyres.
    spectrum *= 1 / np.maximum(hertz, 100.0) + 1e-4 * (hertz > 500)
    rumble = np.fft.irfft(spectrum, length)
    time = np.arange(length) / rate
    swell = 0.3 + np.abs(np.sin(np.pi * (time / _PASSING_S + draw.random())))
    return within(rumble / max(float(np.abs(rumble).max(initial=0.0)), 1e-20) * swell)


def pad(
    samples: Samples,
    rate: int,
    *,
    before_s: float = 0.0,
    behind_s: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
) -> Samples:
    """Return a clip with silence, or faint noise, before and behind it.

    Padding is cut where the clip would be longer than 29 s.

    Args:
        samples: The clip.
        rate: Its rate in hertz.
        before_s: Seconds before it.
        behind_s: Seconds behind it.
        noise: Standard deviation of white noise in the padding; 0 for silence.
        seed: Of the noise.
    """
    import numpy as np

    room = max(0, int(_MAX_S * rate) - len(samples))
    before = min(int(before_s * rate), room)
    behind = min(int(behind_s * rate), room - before)
    draw = np.random.default_rng(seed)
    parts = [draw.standard_normal(size) * noise for size in (before, behind)]
    return within(np.concatenate([parts[0], samples, parts[1]]))


def change_gain(samples: Samples, *, decibels: float) -> Samples:
    """Return a clip louder or quieter; what exceeds full scale is clipped at it."""
    import numpy as np

    louder = np.clip(samples * 10 ** (decibels / 20), -1.0, 1.0)
    found: Samples = louder.astype(np.float32)
    return found


def find_middle(samples: Samples, rate: int) -> int:
    """Return where a clip is cut in two: the quietest place of its middle third."""
    import numpy as np

    width = max(1, int(_MIN_PAUSE_S * rate))
    low, high = len(samples) // 3, 2 * len(samples) // 3
    if high - low <= width:
        return len(samples) // 2
    power = np.convolve(
        np.square(samples[low:high], dtype=np.float64), np.ones(width), mode="valid"
    )
    return low + int(power.argmin()) + width // 2


def halves(samples: Samples, rate: int) -> tuple[Samples, Samples]:
    """Return a clip's two halves, cut at the quietest place of its middle third."""
    middle = find_middle(samples, rate)
    return samples[:middle], samples[middle:]


def join(*clips: Samples, rate: int, pause_s: float = 0.4) -> Samples:
    """Return clips one after the other, with pauses between."""
    import numpy as np

    pause = np.zeros(int(pause_s * rate), dtype=np.float32)
    parts = [part for clip in clips for part in (pause, clip)]
    return within(np.concatenate(parts[1:]))


def _of_length(samples: NDArray[Any], length: int) -> NDArray[Any]:
    """Return samples cut, or filled with silence, to a length."""
    import numpy as np

    return np.pad(samples[:length], (0, max(0, length - len(samples))))
