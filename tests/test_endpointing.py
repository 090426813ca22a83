"""Endpointing: utterances come out whole, whatever pieces the stream comes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sarguard.audio import Endpointer, EndpointingOptions
from sarguard.errors import AudioFormatError, ConfigurationError

RATE = 16_000


def pcm(seconds: float, *, level: float = 0.3) -> bytes:
    wave = level * np.sin(np.arange(int(seconds * RATE)) * 0.1)
    return (wave * 32767).astype("<i2").tobytes()


def silence(seconds: float) -> bytes:
    return pcm(seconds, level=0.0)


def cut(sound: bytes, *, piece: int = 999, **options: Any) -> list[NDArray[np.int16]]:  # noqa: ANN401
    """Return the utterances of a stream that comes in pieces of some bytes."""
    endpointer = Endpointer(EndpointingOptions(**options))
    found: list[NDArray[np.int16]] = []
    for start in range(0, len(sound), piece):
        found += endpointer.push(sound[start : start + piece])
    return [*found, *endpointer.flush()]


def test_silences_end_utterances_and_short_noises_are_dropped() -> None:
    found = cut(pcm(1.0) + silence(1.0) + pcm(0.05) + silence(1.0) + pcm(0.5))
    # The first ends with its silence, the second is padded and cut by the stream's end.
    assert [len(u) / RATE for u in found] == pytest.approx([1.7, 0.7])


@pytest.mark.parametrize("piece", [1, 640, 7777])
def test_the_size_of_the_pieces_does_not_matter(piece: int) -> None:
    sound = silence(0.5) + pcm(0.6) + silence(0.8) + pcm(0.4)
    expected = cut(sound, piece=len(sound))
    found = cut(sound, piece=piece)
    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_samples_are_the_stream_s_own() -> None:
    sound = silence(0.2) + pcm(0.6) + silence(0.7)
    (found,) = cut(sound)
    assert found.tobytes() == sound


def test_a_long_utterance_is_cut() -> None:
    found = cut(pcm(2.5), max_utterance_s=1.0)
    assert [len(u) / RATE for u in found] == pytest.approx([1.0, 1.0, 0.5])


def test_quiet_sound_is_silence() -> None:
    assert cut(pcm(1.0, level=0.005)) == []
    assert len(cut(pcm(1.0, level=0.005), threshold=0.001)) == 1


@pytest.mark.parametrize("name", ["threshold", "min_silence_s", "prefix_padding_s"])
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_senseless_options_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is "):
        EndpointingOptions(**{name: value})  # type: ignore[arg-type]


def test_a_senseless_rate_is_refused() -> None:
    with pytest.raises(AudioFormatError, match="sample rate of 0 Hz"):
        EndpointingOptions(sample_rate=0)
