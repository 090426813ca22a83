"""Endpointing: utterances come out whole, whatever pieces the stream comes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from sarguard.audio import Endpointer, EndpointingOptions, pcm_bytes
from sarguard.datasets import load_clips
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


def test_below_the_threshold_nothing_is_speech() -> None:
    quiet = pcm_bytes(call(SPOKEN[0] * 0.02))
    assert len(cut(quiet)) == 1
    assert cut(quiet, threshold=0.01) == []


@pytest.mark.parametrize("name", ["threshold", "min_silence_s", "prefix_padding_s"])
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_senseless_options_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is "):
        EndpointingOptions(**{name: value})  # type: ignore[arg-type]


def test_a_senseless_rate_is_refused() -> None:
    with pytest.raises(AudioFormatError, match="sample rate of 0 Hz"):
        EndpointingOptions(sample_rate=0)


SPOKEN = [clip.load() for clip in load_clips("ordinary")[:5]]
"""Requests in synthetic and natural voices, 2 to 4 s each."""
GAP = np.zeros(RATE, np.float32)
_RNG = np.random.default_rng(0)


def call(*clips: NDArray[np.float32], pause_s: float = 1.0) -> NDArray[np.float32]:
    gap = np.zeros(int(pause_s * RATE), np.float32)
    return np.concatenate([gap, *(part for clip in clips for part in (clip, gap))])


def noise(samples: int, dbfs: float) -> NDArray[np.float64]:
    return _RNG.normal(0, 10 ** (dbfs / 20), samples)


def rumble(samples: int) -> NDArray[np.float64]:
    """Return brown noise, as wind and traffic make it, at -40 dBFS."""
    walk = np.cumsum(_RNG.normal(0, 1, samples))
    slow = np.convolve(walk, np.ones(2000) / 2000, "same")
    return 0.01 * (walk - slow) / (walk - slow).std()


def hum(samples: int, mains: float) -> NDArray[np.float64]:
    """Return mains hum with its harmonics, at -30 dBFS."""
    phase = 2 * np.pi * mains * np.arange(samples) / RATE
    parts = ((0.03, 1), (0.01, 3), (0.005, 5))
    return np.asarray(sum(level * np.sin(n * phase) for level, n in parts))


def gain_control(signal: NDArray[Any]) -> NDArray[Any]:
    """Return a signal as an automatic gain control hands it on: noise swells."""
    hop, envelope, out = 160, 1e-4, np.empty_like(signal)
    for start in range(0, len(signal), hop):
        piece = signal[start : start + hop]
        loudness = np.sqrt(np.mean(piece**2)) + 1e-6
        envelope = max(loudness, envelope * np.exp(-hop / RATE / 1.5))
        out[start : start + hop] = piece * min(30.0, 0.1 / envelope)
    return out


def faster(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    return soxr.resample(clip, 1.5, 1.0)


BASE = call(*SPOKEN)
MICROPHONES: dict[str, NDArray[Any]] = {
    "clean": BASE,
    "quiet, -20 dB": BASE * 0.1,
    "quiet, -34 dB": BASE * 0.02,
    "quiet, -46 dB": BASE * 0.005,
    "offset": BASE + 0.1,
    "hum of 50 Hz": BASE + hum(len(BASE), 50),
    "hum of 60 Hz": BASE + hum(len(BASE), 60),
    "hiss at -60": BASE + noise(len(BASE), -60),
    "hiss at -45": BASE + noise(len(BASE), -45),
    "hiss at -30": BASE + noise(len(BASE), -30),
    "rumble": BASE + rumble(len(BASE)),
    "gain control": gain_control(BASE + noise(len(BASE), -60)),
    "a fast speaker": call(*map(faster, SPOKEN)),
    "short pauses": call(*SPOKEN, pause_s=0.75),
    "a loud and a quiet speaker": call(
        *(clip * (0.1, 1.0)[n % 2] for n, clip in enumerate(SPOKEN))
    )
    + noise(len(BASE), -60),
    "noise from the first sample on": (BASE + noise(len(BASE), -45))[RATE:],
}


def lengths(signal: NDArray[Any], piece: int = 1600) -> list[float]:
    pcm = np.rint(np.clip(signal, -1, 1) * 32767).astype("<i2")
    endpointer = Endpointer()
    pieces = (pcm[i : i + piece] for i in range(0, len(pcm), piece))
    found = [u for p in pieces for u in endpointer.push(p)]
    return [len(u) / RATE for u in [*found, *endpointer.flush()]]


class TestRealMicrophones:
    @pytest.mark.parametrize("microphone", MICROPHONES)
    def test_every_utterance_is_found_and_nothing_else(self, microphone: str) -> None:
        found = lengths(MICROPHONES[microphone])
        spoken = [len(clip) / RATE for clip in SPOKEN]
        if microphone == "a fast speaker":
            spoken = [seconds / 1.5 for seconds in spoken]
        assert len(found) == len(spoken)
        # With 0.2 s before and 0.7 s of silence behind; clips end in some silence.
        for heard, said in zip(found, spoken, strict=True):
            assert said - 0.7 <= heard <= said + 1.0

    @pytest.mark.parametrize(
        "sound",
        [
            noise(6 * RATE, -45),
            noise(6 * RATE, -32),
            rumble(6 * RATE),
            hum(6 * RATE, 50),
            np.full(6 * RATE, 0.2),
            np.concatenate([GAP, noise(4 * RATE, -40), GAP]),
            gain_control(noise(6 * RATE, -60)),
        ],
        ids=["hiss", "loud hiss", "rumble", "hum", "offset", "burst", "gain control"],
    )
    def test_noise_alone_is_no_utterance(self, sound: NDArray[Any]) -> None:
        assert lengths(sound) == []

    def test_speech_in_progress_is_counted(self) -> None:
        endpointer = Endpointer()
        assert endpointer.speech_s == 0
        speech = pcm_bytes(BASE[: 2 * RATE])
        assert not list(endpointer.push(speech))
        assert 0.5 < endpointer.speech_s < 1.0
        list(endpointer.push(pcm_bytes(np.zeros(RATE, np.float32))))
        assert endpointer.speech_s == 0

    def test_noise_in_progress_is_not(self) -> None:
        endpointer = Endpointer()
        list(endpointer.push(pcm_bytes(np.zeros(RATE, np.float32))))
        list(endpointer.push(pcm_bytes(noise(RATE // 2, -45))))
        assert endpointer.speech_s == 0


class TestSamples:
    def test_floats_are_clipped_and_nan_is_silence(self) -> None:
        samples = np.array([0.0, 1.0, -1.0, 2.0, np.nan], np.float32)
        assert np.frombuffer(pcm_bytes(samples), "<i2").tolist() == [
            *(0, 32767, -32767, 32767, 0)
        ]

    @pytest.mark.parametrize(
        "bad", [np.zeros((2, 10), np.int16), np.zeros(10, np.int64), "text", 7, [0.0]]
    )
    def test_others_are_refused_by_name(self, bad: object) -> None:
        with pytest.raises(AudioFormatError, match="a piece of the stream is a"):
            pcm_bytes(bad)  # type: ignore[arg-type]
