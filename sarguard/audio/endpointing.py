"""Cutting a stream of samples into utterances, at pauses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FRAME_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Say what a pause is; times in seconds, levels as the RMS of samples in -1..1."""

    sample_rate: int = 16_000
    level: float = 0.01
    """A frame above it is speech."""
    pause_s: float = 0.7
    """So much quiet ends an utterance."""
    least_s: float = 0.2
    """Shorter noises are no utterance."""
    most_s: float = 25.0
    """Longer speech is cut."""
    lead_s: float = 0.2
    """So much of what came before is kept, as words begin quietly."""


class Endpointer:
    """Collect 16-bit mono PCM, in pieces of any size, and give out utterances.

    A level decides, no model: put a voice activity detector of your own before it
    where rooms are loud.
    """

    def __init__(self, pauses: Pauses | None = None) -> None:
        self._pauses = Pauses() if pauses is None else pauses
        self._frame = int(self._pauses.sample_rate * _FRAME_S)
        self._bytes = b""
        self._lead: deque[NDArray[np.int16]] = deque(
            maxlen=max(1, round(self._pauses.lead_s / _FRAME_S))
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
        """Yield the utterance that the end of the stream cuts, if there is one."""
        if self._loud * _FRAME_S >= self._pauses.least_s:
            yield np.concatenate(self._speech)
        self._reset()

    def _add(self, frame: NDArray[np.int16]) -> Iterator[NDArray[np.int16]]:
        loud = _level(frame) > self._pauses.level
        if not self._speech and not loud:
            self._lead.append(frame)
            return
        if not self._speech:
            self._speech = [*self._lead]
        self._speech.append(frame)
        self._loud += loud
        self._quiet = 0 if loud else self._quiet + 1
        paused = self._quiet * _FRAME_S >= self._pauses.pause_s
        if paused or len(self._speech) * _FRAME_S >= self._pauses.most_s:
            yield from self.finish()

    def _reset(self) -> None:
        self._speech, self._loud, self._quiet = [], 0, 0
        self._lead.clear()


def _level(frame: NDArray[np.int16]) -> float:
    return float(np.sqrt(np.mean(np.square(frame / 32768.0))))
