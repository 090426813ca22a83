"""Utterances cut from a stream of samples, at pauses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FRAME_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointingOptions:
    """What counts as speech and as a pause; times in seconds."""

    sample_rate: int = 16_000
    threshold: float = 0.01
    """Level above which a frame is speech: the RMS of samples in [-1, 1]."""
    silence_s: float = 0.7
    """Silence that ends an utterance."""
    min_speech_s: float = 0.2
    """A shorter sound is not an utterance."""
    max_utterance_s: float = 25.0
    """A longer utterance is cut here."""
    prefix_s: float = 0.2
    """Sound kept from before the first loud frame: words begin quietly."""


class Endpointer:
    """Splitter of 16-bit mono PCM, in pieces of any size, into utterances.

    It compares levels and runs no model: in a noisy room, put a voice activity detector
    before it. One stream each; not safe to share between threads.
    """

    def __init__(self, options: EndpointingOptions | None = None) -> None:
        self._options = EndpointingOptions() if options is None else options
        self._frame = int(self._options.sample_rate * _FRAME_S)
        self._bytes = b""
        self._prefix: deque[NDArray[np.int16]] = deque(
            maxlen=max(1, round(self._options.prefix_s / _FRAME_S))
        )
        self._speech: list[NDArray[np.int16]] = []
        self._loud = 0
        self._quiet = 0

    def push(self, pcm: bytes) -> Iterator[NDArray[np.int16]]:
        """Add samples and yield the utterances that end in them."""
        self._bytes += pcm
        size = 2 * self._frame
        whole = len(self._bytes) - len(self._bytes) % size
        data, self._bytes = self._bytes[:whole], self._bytes[whole:]
        for frame in np.frombuffer(data, dtype="<i2").reshape(-1, self._frame):
            yield from self._add(frame)

    def finish(self) -> Iterator[NDArray[np.int16]]:
        """Yield the utterance that the stream ended in, if there is one."""
        if self._loud * _FRAME_S >= self._options.min_speech_s:
            yield np.concatenate(self._speech)
        self._reset()

    def _add(self, frame: NDArray[np.int16]) -> Iterator[NDArray[np.int16]]:
        loud = _level(frame) > self._options.threshold
        if not self._speech and not loud:
            self._prefix.append(frame)
            return
        if not self._speech:
            self._speech = [*self._prefix]
        self._speech.append(frame)
        self._loud += loud
        self._quiet = 0 if loud else self._quiet + 1
        paused = self._quiet * _FRAME_S >= self._options.silence_s
        if paused or len(self._speech) * _FRAME_S >= self._options.max_utterance_s:
            yield from self.finish()

    def _reset(self) -> None:
        self._speech, self._loud, self._quiet = [], 0, 0
        self._prefix.clear()


def _level(frame: NDArray[np.int16]) -> float:
    return float(np.sqrt(np.mean(np.square(frame / 32768.0))))
