"""Endpointing: a stream of PCM samples, cut into utterances at silences."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sarguard.audio.limits import check_rate
from sarguard.errors import ConfigurationError

_FRAME_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointingOptions:
    """What is speech, and which silence ends an utterance.

    Raises:
        AudioFormatError: if `sample_rate` is not a usable rate.
        ConfigurationError: if one of the other values is negative or NaN.
    """

    sample_rate: int = 16_000
    """Sampling rate of the stream, in Hz."""

    threshold: float = 0.01
    """RMS of a frame of 20 ms, full scale being 1, above which it is speech."""

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
    """Detector of utterances in 16-bit little-endian mono PCM, in pieces of any size.

    Loudness decides, not a model: in a noisy place, put a voice activity detector in
    front of it. One instance serves one stream and is not thread-safe.
    """

    def __init__(self, options: EndpointingOptions | None = None) -> None:
        self._options = EndpointingOptions() if options is None else options
        self._frame_size = int(self._options.sample_rate * _FRAME_S)
        self._remainder = b""
        self._padding: deque[NDArray[np.int16]] = deque(
            maxlen=max(1, round(self._options.prefix_padding_s / _FRAME_S))
        )
        self._utterance: list[NDArray[np.int16]] = []
        self._speech_frames = 0
        self._silent_frames = 0

    def push(self, pcm: bytes) -> Iterator[NDArray[np.int16]]:
        """Add samples and yield the utterances that end in them, of shape (time,)."""
        self._remainder += pcm
        # A piece may end within a frame, or between the two bytes of a sample.
        frame_bytes = 2 * self._frame_size
        whole = len(self._remainder) - len(self._remainder) % frame_bytes
        data, self._remainder = self._remainder[:whole], self._remainder[whole:]
        for frame in np.frombuffer(data, dtype="<i2").reshape(-1, self._frame_size):
            yield from self._add(frame)

    def flush(self) -> Iterator[NDArray[np.int16]]:
        """Yield the utterance in progress, if it is long enough, and start afresh."""
        if self._speech_frames * _FRAME_S >= self._options.min_speech_s:
            yield np.concatenate(self._utterance)
        self._utterance, self._speech_frames, self._silent_frames = [], 0, 0
        # These frames are in the utterance already: no sample is in two utterances.
        self._padding.clear()

    def _add(self, frame: NDArray[np.int16]) -> Iterator[NDArray[np.int16]]:
        is_speech = _rms(frame) > self._options.threshold
        if not self._utterance and not is_speech:
            self._padding.append(frame)
            return
        if not self._utterance:
            self._utterance = [*self._padding]
        self._utterance.append(frame)
        self._speech_frames += is_speech
        self._silent_frames = 0 if is_speech else self._silent_frames + 1
        ended = self._silent_frames * _FRAME_S >= self._options.min_silence_s
        # The bound keeps a constant noise from filling the memory.
        if ended or len(self._utterance) * _FRAME_S >= self._options.max_utterance_s:
            yield from self.flush()


def _rms(frame: NDArray[np.int16]) -> float:
    # In floating point: the square of a 16-bit sample overflows 16 bits.
    return float(np.sqrt(np.mean(np.square(frame / 32768.0))))
