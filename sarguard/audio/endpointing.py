"""Endpointing: a stream of PCM samples, cut into utterances at silences.

What is speech is told from what stands around it, not from loudness alone: microphones
differ by 40 dB, and have offsets, hum and hiss. A frame is speech if it stands out from
the noise floor, the quietest that the last seconds were; a level that hardly moves is
noise, however loud it is up to a bound.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt, sosfilt_zi  # type: ignore[import-untyped]

from sarguard.audio.limits import check_rate
from sarguard.errors import AudioFormatError, ConfigurationError

PcmLike: TypeAlias = "bytes | bytearray | memoryview | NDArray[np.generic]"
"""16-bit little-endian mono PCM, or an array of shape (time,): 16-bit integers, or
floats whose full scale is 1."""

_FRAME_S = 0.02
_HIGH_PASS_HZ = 120.0
"""Below it are offsets and mains hum, and little of a voice."""
_FLOOR_FRAMES = 150
"""The floor is the quietest of so many frames, 3 s: speech pauses that often."""
_SMOOTHED_FRAMES = 3
_STEADY_FRAMES = 25
"""A level that holds still for so long, 0.5 s, is noise: syllables are shorter."""
_STEADY_DB = 1.5
"""Deviation below which a level holds still; that of white noise is 0.3."""
_MAX_FLOOR_DB = -28.0
"""Louder noise than that is taken for speech, in dB of full scale."""
_SILENCE_DB = -90.0
_HYSTERESIS_DB = 3.0
"""An utterance goes on down to so much less than it takes to begin."""
_MIN_MODULATION_DB = 1.0
"""Mean change between two frames of speech; that of white noise is 0.4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointingOptions:
    """What is speech, and which silence ends an utterance.

    Raises:
        AudioFormatError: if `sample_rate` is not a usable rate.
        ConfigurationError: if one of the other values is negative or NaN.
    """

    sample_rate: int = 16_000
    """Sampling rate of the stream, in Hz."""

    snr_db: float = 9.0
    """How far a frame of 20 ms has to stand out from the noise, in dB, to be speech."""

    threshold: float = 0.0003
    """RMS of a frame, full scale being 1, below which nothing is speech."""

    min_silence_s: float = 0.7
    """Silence that ends an utterance, in seconds."""

    min_speech_s: float = 0.2
    """Speech that makes an utterance, in seconds; less is dropped as noise."""

    max_utterance_s: float = 25.0
    """Length at which an utterance is cut without a silence, in seconds."""

    prefix_padding_s: float = 0.2
    """Sound kept from before the first speech, in seconds: words begin quietly."""

    def __post_init__(self) -> None:
        """Refuse a rate without a frame, and values that no stream could meet."""
        check_rate(self.sample_rate, name="The stream")
        for field in fields(self):
            value = getattr(self, field.name)
            # Negated, so that NaN is refused too.
            if not value >= 0:
                raise ConfigurationError(f"{field.name} is {value!r}: give 0 or more.")


class Endpointer:
    """Detector of utterances in mono PCM, in pieces of any size.

    The noise that it tells speech from is steady: fans, hum, hiss. Where other people
    talk, put a voice activity detector in front of it. One instance serves one stream
    and is not thread-safe.
    """

    def __init__(self, options: EndpointingOptions | None = None) -> None:
        self._options = EndpointingOptions() if options is None else options
        self._frame_size = int(self._options.sample_rate * _FRAME_S)
        self._remainder = b""
        self._padding: deque[NDArray[np.int16]] = deque(
            maxlen=max(1, round(self._options.prefix_padding_s / _FRAME_S))
        )
        self._level = _Level(self._options)
        self._utterance: list[NDArray[np.int16]] = []
        self._spoken: list[float] = []
        self._silent_frames = 0

    @property
    def speech_s(self) -> float:
        """Return how much speech the utterance in progress has, in seconds.

        0 outside of one, and while what was heard may be noise.
        """
        return len(self._spoken) * _FRAME_S if _is_speech(self._spoken) else 0.0

    def push(self, pcm: PcmLike) -> Iterator[NDArray[np.int16]]:
        """Add samples and yield the utterances that end in them, of shape (time,).

        Raises:
            AudioFormatError: They are an array of another shape or type.
        """
        self._remainder += pcm_bytes(pcm)
        # A piece may end within a frame, or between the two bytes of a sample.
        frame_bytes = 2 * self._frame_size
        whole = len(self._remainder) - len(self._remainder) % frame_bytes
        data, self._remainder = self._remainder[:whole], self._remainder[whole:]
        for frame in np.frombuffer(data, dtype="<i2").reshape(-1, self._frame_size):
            yield from self._add(frame)

    def flush(self) -> Iterator[NDArray[np.int16]]:
        """Yield the utterance in progress, if it is long enough, and start afresh."""
        if self.speech_s >= max(self._options.min_speech_s, _FRAME_S):
            yield np.concatenate(self._utterance)
        self._utterance, self._spoken, self._silent_frames = [], [], 0
        # These frames are in the utterance already: no sample is in two utterances.
        self._padding.clear()

    def _add(self, frame: NDArray[np.int16]) -> Iterator[NDArray[np.int16]]:
        level, is_speech = self._level.add(frame, within=bool(self._utterance))
        if not self._utterance and not is_speech:
            self._padding.append(frame)
            return
        if not self._utterance:
            self._utterance = [*self._padding]
        self._utterance.append(frame)
        if is_speech:
            self._spoken.append(level)
        self._silent_frames = 0 if is_speech else self._silent_frames + 1
        ended = self._silent_frames * _FRAME_S >= self._options.min_silence_s
        # The bound keeps a constant noise from filling the memory.
        if ended or len(self._utterance) * _FRAME_S >= self._options.max_utterance_s:
            yield from self.flush()


class _Level:
    """Loudness of a stream, frame by frame, and the noise in it."""

    def __init__(self, options: EndpointingOptions) -> None:
        rate = options.sample_rate
        cutoff = min(_HIGH_PASS_HZ, 0.2 * rate)
        self._filter = butter(2, cutoff, "highpass", fs=rate, output="sos")
        self._state: NDArray[np.float64] | None = None
        self._snr_db = options.snr_db
        self._least_db = 20 * math.log10(max(options.threshold, 1e-9))
        self._levels: deque[float] = deque(maxlen=_FLOOR_FRAMES)
        self._smoothed: deque[float] = deque(maxlen=_FLOOR_FRAMES)

    def add(self, frame: NDArray[np.int16], *, within: bool) -> tuple[float, bool]:
        """Return a frame's level in dB of full scale, and whether it is speech.

        Args:
            frame: Samples, (time,).
            within: Whether an utterance is in progress.
        """
        # In floating point: the square of a 16-bit sample overflows 16 bits.
        samples = frame / 32768.0
        if self._state is None:
            # As if the offset had been there for ever: no click at the beginning.
            self._state = sosfilt_zi(self._filter) * samples[0]
        filtered, self._state = sosfilt(self._filter, samples, zi=self._state)
        power = float(np.mean(np.square(filtered)))
        level = max(_SILENCE_DB, 10 * math.log10(power + 1e-12))
        self._levels.append(level)
        newest = list(self._levels)[-_SMOOTHED_FRAMES:]
        self._smoothed.append(sum(newest) / len(newest))
        snr_db = self._snr_db - _HYSTERESIS_DB * within
        return level, level > max(self._floor() + snr_db, self._least_db)

    def _floor(self) -> float:
        floor = min(self._smoothed)
        if len(self._levels) >= _STEADY_FRAMES:
            recent = np.array(self._levels)[-_STEADY_FRAMES:]
            if recent.std() < _STEADY_DB:
                floor = max(floor, float(recent.mean()))
        return min(floor, _MAX_FLOOR_DB)


def pcm_bytes(samples: PcmLike) -> bytes:
    """Return samples as 16-bit little-endian PCM; floats are clipped at full scale.

    Raises:
        AudioFormatError: They are an array of another shape or type.
    """
    if isinstance(samples, (bytes, bytearray, memoryview)):
        return bytes(samples)
    if not isinstance(samples, np.ndarray):
        raise AudioFormatError(
            f"a piece of the stream is a {type(samples).__name__}: give 16-bit PCM as "
            "bytes, or samples as a numpy array"
        )
    is_float = samples.dtype.kind == "f"
    if samples.ndim != 1 or not (is_float or samples.dtype == np.int16):
        raise AudioFormatError(
            f"a piece of the stream is an array of shape {samples.shape} and type "
            f"{samples.dtype}: give one channel, of floats up to 1 or of int16"
        )
    if is_float:
        samples = np.rint(np.clip(np.nan_to_num(samples), -1, 1) * 32767)
    return samples.astype("<i2").tobytes()


def _is_speech(levels: list[float]) -> bool:
    """Return whether levels, in dB, move as those of speech do, or are loud."""
    if not levels:
        return False
    values = np.array(levels)
    if values.mean() > _MAX_FLOOR_DB:
        return True
    return (
        len(values) > 1 and float(np.abs(np.diff(values)).mean()) > _MIN_MODULATION_DB
    )
