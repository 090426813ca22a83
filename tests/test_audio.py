"""Good clips give exact samples, bad ones typed errors."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile  # type: ignore[import-untyped]

from sarguard.audio import AudioLimits, decoding, load_audio, loading, transcoding
from sarguard.datasets import load_clips
from sarguard.errors import (
    AudioDecodeError,
    AudioEmptyError,
    AudioError,
    AudioFormatError,
    AudioNotFoundError,
    AudioSilentError,
    AudioTooLongError,
    AudioTooShortError,
    ConfigurationError,
)

RATE = 16_000
Samples = npt.NDArray[Any]

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg is not on PATH"
)


def sine(seconds: float = 1.0, rate: int = RATE, level: float = 0.5) -> Samples:
    times = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def encode(
    samples: Samples, rate: int = RATE, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def load(source: Any, **limits: Any) -> Samples:  # noqa: ANN401
    loaded = load_audio(source, sample_rate=RATE, limits=AudioLimits(**limits))
    assert loaded.dtype == np.float32
    assert loaded.ndim == 1
    assert loaded.flags.c_contiguous
    assert np.abs(loaded).max() <= 1
    return loaded


def assert_same_sine(loaded: Samples, seconds: float, level: float, tol: float) -> None:
    expected = sine(seconds, RATE, level)
    assert len(loaded) == len(expected)
    # A resampling filter rings where a clip starts and stops at full level.
    inside = slice(RATE // 20, -RATE // 20)
    np.testing.assert_allclose(loaded[inside], expected[inside], atol=tol)


class TestExactness:
    @pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("kind", ["WAV", "FLAC"])
    def test_a_sine_arrives_as_the_same_sine(
        self, rate: int, channels: int, kind: str
    ) -> None:
        clip = np.stack([sine(rate=rate)] * channels, axis=1)
        assert_same_sine(load(encode(clip, rate, kind)), 1.0, 0.5, tol=2e-4)

    @pytest.mark.parametrize(
        ("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
    )
    def test_a_lossy_sine_keeps_its_phase_and_level(
        self, kind: str, subtype: str | None
    ) -> None:
        loaded = load(encode(sine(2.0), kind=kind, subtype=subtype))
        expected = sine(2.0)
        assert abs(len(loaded) - len(expected)) <= RATE * 0.01
        inside = slice(RATE // 4, RATE)
        agreement = np.corrcoef(loaded[inside], expected[inside])[0, 1]
        assert agreement > 0.99
        assert np.std(loaded[inside]) == pytest.approx(
            np.std(expected[inside]), rel=0.1
        )

    @pytest.mark.parametrize(
        "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]
    )
    def test_every_wav_encoding_has_the_same_level(self, subtype: str) -> None:
        coarse = subtype in ("PCM_U8", "ULAW")
        loaded = load(encode(sine(), subtype=subtype))
        assert_same_sine(loaded, 1.0, 0.5, tol=2e-2 if coarse else 1e-4)

    @pytest.mark.parametrize(
        ("dtype", "offset", "scale", "tol"),
        [
            ("int16", 0, 2**15, 1e-4),
            (">i2", 0, 2**15, 1e-4),
            ("int32", 0, 2**31, 1e-6),
            ("uint8", 128, 128, 1e-2),
            ("float32", 0, 1, 1e-7),
            ("float64", 0, 1, 1e-7),
            (">f8", 0, 1, 1e-7),
        ],
    )
    def test_arrays_of_every_dtype_are_scaled(
        self, dtype: str, offset: int, scale: int, tol: float
    ) -> None:
        clip = (sine().astype(np.float64) * scale + offset).astype(dtype)
        assert_same_sine(load((clip, RATE)), 1.0, 0.5, tol)

    def test_full_scale_integers_stay_within_one(self) -> None:
        extremes = np.array([-(2**15), 2**15 - 1] * RATE, dtype=np.int16)
        loaded = load((extremes, RATE))
        assert loaded.min() == -1.0
        assert loaded.max() == pytest.approx(1 - 2**-15)

    def test_channels_are_averaged_on_either_axis(self) -> None:
        left, right = sine(level=0.6), sine(level=0.2)
        by_channel = np.stack([left, right])
        expected = (left + right) / 2
        np.testing.assert_allclose(load((by_channel, RATE)), expected, atol=1e-6)
        np.testing.assert_allclose(load((by_channel.T, RATE)), expected, atol=1e-6)
        np.testing.assert_allclose(
            load(encode(by_channel.T, subtype="FLOAT")), expected, atol=1e-6
        )

    def test_slightly_hot_floats_are_clipped(self) -> None:
        loaded = load((sine(level=1.3), RATE))
        assert loaded.max() == 1.0
        assert loaded.min() == -1.0

    def test_a_clip_longer_than_one_block_is_seamless(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clips = [encode(sine(2.0), kind=kind) for kind in ("WAV", "FLAC", "OGG", "MP3")]
        whole = [load(clip) for clip in clips]
        monkeypatch.setattr(decoding, "_BLOCK_SAMPLES", 1000)
        for clip, expected in zip(clips, whole, strict=True):
            np.testing.assert_array_equal(load(clip), expected)

    def test_the_result_is_never_a_view_of_the_source(self) -> None:
        clip = sine()
        loaded = load((clip, RATE))
        loaded[:] = 0
        np.testing.assert_array_equal(clip, sine())

    def test_the_longest_clip_allowed_is_taken(self) -> None:
        assert len(load(encode(sine(30.0)))) == 30 * RATE
        assert len(load((sine(30.0, 44_100), 44_100))) == 30 * RATE


class TestSources:
    def test_every_kind_of_source_gives_the_same_samples(self, tmp_path: Path) -> None:
        data = encode(sine(), subtype="FLOAT")
        path = tmp_path / "clip.wav"
        path.write_bytes(data)
        with path.open("rb") as file, path.open("rb", buffering=0) as raw:
            sources = [str(path), path, data, bytearray(data), memoryview(data)]
            sources += [io.BytesIO(data), file, raw, (sine(), RATE)]
            for source in sources:
                np.testing.assert_array_equal(load(source), sine())

    def test_base64_holds_the_file_itself(self) -> None:
        data = encode(sine(), subtype="FLOAT")
        text = base64.b64encode(data).decode()
        heads = (
            *("data:audio/wav;base64,", "DATA:audio/wav;codecs=1;base64,"),
            *("data:audio/ogg; codecs=opus;base64,", "data:audio/ogg;voice;base64,"),
            *('data:audio/ogg;codecs="opus, vorbis";base64,', "data:;base64,"),
            *("", " data:audio/wav;base64, ", "data:video/webm;BASE64,"),
        )
        for head in heads:
            np.testing.assert_array_equal(load(head + text), sine())

    @pytest.mark.parametrize("extra", [0, 1, 2])
    @pytest.mark.parametrize("head", ["", "data:audio/wav;base64,"])
    def test_base64_is_taken_however_it_is_wrapped(self, head: str, extra: int) -> None:
        # Of every length, so that there are none, one and two signs of padding.
        data = encode(sine(), subtype="FLOAT") + bytes(extra)
        text = base64.b64encode(data).decode()
        for wrapped in (
            text + "\n",
            base64.encodebytes(data).decode(),
            "\r\n".join(text[i : i + 64] for i in range(0, len(text), 64)),
            text.rstrip("="),
            base64.urlsafe_b64encode(data).decode(),
            text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        ):
            if head or "%" not in wrapped:
                np.testing.assert_array_equal(load(head + wrapped), sine())

    def test_long_base64_is_decoded_in_pieces(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sarguard.audio.base64_text._PIECE", 64)
        text = base64.b64encode(encode(sine(), subtype="FLOAT")).decode()
        np.testing.assert_array_equal(load(f"data:;base64,{text}"), sine())

    @pytest.mark.parametrize("text", ["data:audio/wav;base64,{}!", "data:audio/wav,{}"])
    def test_an_error_holds_nothing_of_the_sound(self, text: str) -> None:
        sound = base64.b64encode(encode(sine())).decode()
        with pytest.raises(AudioError) as caught:
            load(text.format(sound))
        assert sound[:8] not in str(caught.value)
        assert sound[:8] not in repr(caught.value.__cause__)

    @pytest.mark.parametrize("weight", [-1.0, -0.97, 0.0, 1.0])
    @pytest.mark.parametrize("late", [0, 1])
    @pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
    def test_channels_that_cancel_do_not_take_the_sound(
        self, weight: float, late: int, subtype: str
    ) -> None:
        rng = np.random.default_rng(0)
        speech = np.convolve(rng.standard_normal(RATE), np.ones(32) / 32, "same")
        speech = (0.5 * speech / np.abs(speech).max()).astype(np.float32)
        both = np.stack([speech, weight * np.roll(speech, late)], axis=1)
        for source in (encode(both, subtype=subtype), (both, RATE)):
            heard = load(source)
            lost = 10 * np.log10(np.mean(heard**2) / np.mean(speech**2))
            assert lost > -7.0

    def test_one_microphone_among_idle_channels_keeps_its_level(self) -> None:
        channels = np.zeros((RATE, 8), np.float32)
        channels[:, 5] = sine()
        np.testing.assert_array_equal(load((channels, RATE)), sine())

    def test_a_tensor_is_an_array(self) -> None:
        import torch

        wave = torch.from_numpy(sine())
        np.testing.assert_array_equal(load((wave, RATE)), sine())
        grown = wave.clone().requires_grad_()
        np.testing.assert_array_equal(load((torch.stack([grown] * 2), RATE)), sine())
        np.testing.assert_allclose(load((wave.bfloat16(), RATE)), sine(), atol=2e-3)

    def test_a_file_object_is_read_from_its_position(self) -> None:
        file = io.BytesIO(b"envelope" + encode(sine()))
        file.seek(8)
        assert len(load(file)) == RATE

    def test_the_name_of_a_file_does_not_matter(self, tmp_path: Path) -> None:
        path = tmp_path / "clip.wav"
        path.write_bytes(encode(sine(), kind="FLAC"))
        assert len(load(path)) == RATE

    def test_a_wav_written_to_a_pipe_is_taken(self) -> None:
        data = bytearray(encode(sine()))
        at = data.index(b"data") + 4
        data[at : at + 4] = b"\xff\xff\xff\xff"
        assert len(load(bytes(data))) == RATE

    def test_a_flac_of_unknown_length_is_taken(self) -> None:
        data = bytearray(encode(sine(), kind="FLAC"))
        data[21] &= 0xF0
        data[22:26] = bytes(4)
        assert len(load(bytes(data))) == RATE
        with pytest.raises(AudioTooLongError, match=r"0\.5 s"):
            load(bytes(data), max_seconds=0.5)

    @pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000])
    @pytest.mark.parametrize("level", [0.0, 0.5, 0.99])
    def test_an_mp3_of_any_rate_and_quality_is_taken(
        self, rate: int, level: float
    ) -> None:
        file = io.BytesIO()
        sine = 0.5 * np.sin(np.arange(rate) * 2 * np.pi * 440 / rate)
        soundfile.write(file, sine, rate, format="MP3", compression_level=level)
        loaded = load_audio(file.getvalue(), sample_rate=rate)
        assert len(loaded) >= rate

    def test_an_mp3_behind_an_id3_tag_is_taken(self) -> None:
        tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)
        assert len(load(tag + encode(sine(), kind="MP3"))) >= 0.9 * RATE


class Endless(io.RawIOBase):
    """A readable stream without end that counts what was taken."""

    taken = 0

    def read(self, size: int = -1, /) -> bytes:
        size = min(size, 65536)
        self.taken += size
        return bytes(size)


def with_nan() -> Samples:
    clip = sine()
    clip[5000] = np.nan
    return clip


def with_infinity() -> Samples:
    clip = sine()
    clip[5000] = -np.inf
    return clip


def unreadable() -> io.BufferedReader:
    file = open(os.devnull, "rb")  # noqa: SIM115
    file.close()
    return file


BAD_CLIPS: dict[str, tuple[Callable[[], Any], type[AudioError], tuple[str, ...]]] = {
    "missing": (lambda: "no/such.wav", AudioNotFoundError, ("no/such.wav", "Check")),
    "empty path": (lambda: "", AudioNotFoundError, ("''", "Check")),
    "null in path": (lambda: "a\0b.wav", AudioNotFoundError, ("null", "Pass")),
    "endless path": (
        lambda: "a" * 9999,
        AudioNotFoundError,
        ("text of 9,999 characters", "Check"),
    ),
    "directory": (lambda: os.getcwd(), AudioNotFoundError, ("directory", "Pass")),
    "device": (lambda: os.devnull, AudioNotFoundError, ("regular", "Open it")),
    "http": (lambda: "http://h/a.wav", AudioNotFoundError, ("URL", "Fetch it first")),
    "https": (lambda: "HTTPS://h/a.wav", AudioNotFoundError, ("URL", "Fetch it first")),
    "s3": (lambda: "s3://b/a.wav", AudioNotFoundError, ("s3://b", "Fetch it first")),
    "file url": (lambda: "file:///a.wav", AudioNotFoundError, ("URL", "Fetch")),
    "url path": (lambda: Path("https://h/a.wav"), AudioNotFoundError, ("URL", "Fetch")),
    "data url": (
        lambda: "data:audio/wav,UklGR" + "A" * 10**6,
        AudioNotFoundError,
        ("URL", "pass the bytes"),
    ),
    "no base64": (
        lambda: "data:audio/wav;base64,UklG*",
        AudioDecodeError,
        ("not base64", "again"),
    ),
    "no sound in base64": (
        lambda: "data:audio/wav;base64,aGVsbG8gd29ybGQ=",
        AudioDecodeError,
        ("base64 clip", "text"),
    ),
    "empty base64": (lambda: "data:;base64,", AudioEmptyError, ("0 bytes",)),
    "base64 beyond the limit": (
        lambda: "data:audio/wav;base64," + "A" * (4 * 23 * 2**20),
        AudioTooLongError,
        ("base64 clip",),
    ),
    "no bytes": (lambda: b"", AudioEmptyError, ("0 bytes", "Check")),
    "no bytes in file": (lambda: io.BytesIO(), AudioEmptyError, ("0 bytes", "Check")),
    "no samples": (
        lambda: encode(np.zeros(0, np.float32)),
        AudioEmptyError,
        ("0 samples", "Check"),
    ),
    "no samples in array": (
        lambda: (np.zeros(0, np.float32), RATE),
        AudioEmptyError,
        ("0 samples",),
    ),
    "no samples in channels": (
        lambda: (np.zeros((0, 0), np.float32), RATE),
        AudioEmptyError,
        ("(0, 0)",),
    ),
    "digital silence": (
        lambda: encode(np.zeros(RATE)),
        AudioSilentError,
        ("digital silence", "-60 dBFS", "microphone"),
    ),
    "near silence": (
        lambda: (sine(level=5e-4), RATE),
        AudioSilentError,
        ("-66.0 dBFS", "-60 dBFS", "microphone"),
    ),
    "constant": (
        lambda: (np.full(RATE, 0.25, np.float32), RATE),
        AudioSilentError,
        ("silen", "microphone"),
    ),
    "nan": (lambda: (with_nan(), RATE), AudioFormatError, ("NaN", "Repair")),
    "infinity": (lambda: (with_infinity(), RATE), AudioFormatError, ("infinite",)),
    "nan in file": (
        lambda: encode(with_nan(), subtype="FLOAT"),
        AudioFormatError,
        ("NaN", "Repair"),
    ),
    "huge double in file": (
        lambda: encode(sine().astype(np.float64) * 1e300, subtype="DOUBLE"),
        AudioFormatError,
        ("infinite",),
    ),
    "integers as floats": (
        lambda: ((sine() * 32768).astype(np.float32), RATE),
        AudioFormatError,
        ("1638", "32768", "integers stored as floats"),
    ),
    "integers as floats in file": (
        lambda: encode(sine() * 32768, subtype="FLOAT"),
        AudioFormatError,
        ("1638", "Divide"),
    ),
    "64 channels": (
        lambda: (np.zeros((64, RATE), np.float32), RATE),
        AudioFormatError,
        ("(64, 16000)", "1 to 8", "Pass the channel"),
    ),
    "64 channels in file": (
        lambda: encode(np.zeros((RATE, 64))),
        AudioFormatError,
        ("64 channels", "1 to 8", "Pass the channel"),
    ),
    "0 channels": (
        lambda: (np.zeros((RATE, 0), np.float32), RATE),
        AudioFormatError,
        ("0 channels", "1 to 8"),
    ),
    "either axis": (
        lambda: (np.ones((4, 6), np.float32), RATE),
        AudioFormatError,
        ("(4, 6)", "either axis", "one channel"),
    ),
    "no axis": (
        lambda: (np.array(0.5, np.float32), RATE),
        AudioFormatError,
        ("shape",),
    ),
    "three axes": (
        lambda: (np.zeros((1, 1, RATE), np.float32), RATE),
        AudioFormatError,
        ("(1, 1, 16000)", "(channels, samples)"),
    ),
    "int64": (
        lambda: (np.ones(RATE, np.int64), RATE),
        AudioFormatError,
        ("int64", "give int16"),
    ),
    "complex": (lambda: (np.ones(RATE, complex), RATE), AudioFormatError, ("complex",)),
    "objects": (lambda: (np.array(["a"] * RATE), RATE), AudioFormatError, ("dtype",)),
    "rate too low": (
        lambda: (sine(), 3_999),
        AudioFormatError,
        ("3999 Hz", "4000", "384000", "resample"),
    ),
    "rate too high": (lambda: (sine(), 384_001), AudioFormatError, ("384001 Hz",)),
    "rate too low in file": (
        lambda: encode(sine(), 2_000),
        AudioFormatError,
        ("2000 Hz", "Check the rate"),
    ),
    "negative rate": (lambda: (sine(), -RATE), AudioFormatError, ("-16000 Hz",)),
    "float rate": (lambda: (sine(), 16e3), AudioFormatError, ("float", "as an int")),
    "text rate": (lambda: (sine(), "16k"), AudioFormatError, ("str", "as an int")),
    "swapped": (lambda: (RATE, sine()), AudioFormatError, ("int", "swap it")),
    "three items": (lambda: (sine(), RATE, 1), AudioFormatError, ("3 items", "pass")),
    "list": (lambda: ([0.1] * RATE, RATE), AudioFormatError, ("list", "numpy array")),
    "no rate": (lambda: sine(), AudioFormatError, ("(16000,)", "(array, rate)")),
    "none": (lambda: None, AudioFormatError, ("NoneType", "pass a path")),
    "number": (lambda: 7, AudioFormatError, ("int", "pass a path")),
    "too short": (
        lambda: encode(sine(0.05)),
        AudioTooShortError,
        ("0.050 s", "800 samples", "0.1 s", "Record again"),
    ),
    "too short array": (lambda: (sine(0.05), RATE), AudioTooShortError, ("0.050 s",)),
    "too long": (
        lambda: encode(sine(30.5)),
        AudioTooLongError,
        ("30.500 s", "30 s", "Cut it"),
    ),
    "too long array": (
        lambda: (sine(31), RATE),
        AudioTooLongError,
        ("31.000 s", "30 s", "Cut it"),
    ),
    "text": (
        lambda: b"Hello, this is no sound.\n" * 20,
        AudioDecodeError,
        ("text", "Hello", "wav, flac, ogg"),
    ),
    "noise": (
        lambda: np.random.default_rng(0).bytes(9999),
        AudioDecodeError,
        ("no audio format", "wav, flac, ogg"),
    ),
    "picture": (
        lambda: b"\x89PNG\r\n\x1a\n" + bytes(99),
        AudioDecodeError,
        ("PNG", "wav, flac, ogg"),
    ),
    "one byte": (lambda: b"R", AudioDecodeError, ("b'R'", "Decoded here")),
    "header alone": (lambda: encode(sine())[:20], AudioDecodeError, ("damaged",)),
    "half a wav": (
        lambda: encode(sine())[:16_000],
        AudioDecodeError,
        ("50%", "cut short", "whole file"),
    ),
    "half an aiff": (
        lambda: encode(sine(), kind="AIFF")[:16_000],
        AudioDecodeError,
        ("50%", "cut short", "whole file"),
    ),
    "half a flac": (
        lambda: encode(sine(), kind="FLAC")[:5_000],
        AudioDecodeError,
        ("damaged", "flac", "whole file"),
    ),
    "half a vorbis": (
        lambda: encode(sine(), kind="OGG")[:-500],
        AudioDecodeError,
        ("Ogg page", "whole file"),
    ),
    "half an opus": (
        lambda: encode(sine(9), kind="OGG", subtype="OPUS")[:12_000],
        AudioDecodeError,
        ("Ogg page", "whole file"),
    ),
    "half an mp3": (
        lambda: encode(sine(4), kind="MP3")[:2_500],
        AudioDecodeError,
        ("claims 4.000 s", "cut short", "whole file"),
    ),
    "text mode": (
        lambda: io.StringIO("sound"),
        AudioFormatError,
        ("text mode", "'rb'"),
    ),
    "closed file": (unreadable, AudioDecodeError, ("closed file", "binary mode")),
}


@pytest.mark.parametrize(
    ("subtype", "named"),
    [("PCM_16", "16 bits"), ("ULAW", "mu-law"), ("ALAW", "A-law")],
)
@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000])
@pytest.mark.parametrize("head", [b"", b"\xff" * 1600, b"\xff\xff", b"\xff\xfb"])
def test_sound_without_a_header_is_named_and_can_be_read_as_the_error_says(
    subtype: str, named: str, rate: int, head: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    speech = load_audio(load_clips("ordinary")[0].read_bytes(), sample_rate=rate)
    file = io.BytesIO()
    soundfile.write(file, speech, rate, format="RAW", subtype=subtype)
    data = head + file.getvalue()
    with pytest.raises(AudioDecodeError, match=f"probably .*{named}") as raised:
        load_audio(data, sample_rate=16_000)
    # The decoder, which was not asked, has nothing to say.
    assert capfd.readouterr().err == ""
    recipe = re.search(r"soundfile\.read\(.*?\)(?=, and)", str(raised.value))
    assert recipe is not None
    given = {"soundfile": soundfile, "io": io, "data": data}
    samples, _ = eval(recipe[0], given)
    assert len(load_audio((samples, rate), sample_rate=16_000)) > 16_000


def test_bytes_of_no_sound_are_not_called_probable() -> None:
    data = np.random.default_rng(0).bytes(20_000)
    with pytest.raises(AudioDecodeError, match=r"given as \(samples, rate\)\.$"):
        load_audio(b"\x01" + data, sample_rate=16_000)


@pytest.mark.parametrize("case", BAD_CLIPS)
def test_a_bad_clip_gets_its_typed_error(case: str) -> None:
    make, expected, said = BAD_CLIPS[case]
    with pytest.raises(AudioError) as caught:
        load(make())
    assert type(caught.value) is expected
    for part in said:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 400


class TestFiles:
    def test_text_named_wav_is_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "clip.wav"
        path.write_text("<!DOCTYPE html><title>404 Not Found</title>")
        with pytest.raises(AudioDecodeError, match=r"clip\.wav.* holds text.*DOCTYPE"):
            load(path)

    def test_an_empty_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "clip.wav").touch()
        with pytest.raises(AudioEmptyError, match="0 bytes"):
            load(tmp_path / "clip.wav")

    def test_a_pipe_is_refused_rather_than_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "clip.wav")
        with pytest.raises(AudioNotFoundError, match="not a regular file"):
            load(tmp_path / "clip.wav")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_a_locked_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "clip.wav"
        path.write_bytes(encode(sine()))
        path.chmod(0)
        with pytest.raises(AudioNotFoundError, match="Permission denied"):
            load(path)

    def test_a_read_that_fails_is_wrapped(self) -> None:
        class Broken(io.RawIOBase):
            def read(self, size: int = -1, /) -> bytes:
                raise KeyError("connection")

        with pytest.raises(AudioDecodeError, match="KeyError") as caught:
            load(Broken())
        assert isinstance(caught.value.__cause__, KeyError)

    def test_the_decoder_s_own_error_is_the_cause(self) -> None:
        with pytest.raises(AudioDecodeError) as caught:
            load(b"fLaC" + bytes(999))
        assert isinstance(caught.value.__cause__, soundfile.LibsndfileError)


class TestLimits:
    def test_an_oversize_file_is_never_read(self, tmp_path: Path) -> None:
        path = tmp_path / "clip.wav"
        path.write_bytes(encode(sine()))
        os.truncate(path, 2**31)
        tracemalloc.start()
        with pytest.raises(AudioTooLongError, match="2,147,483,648 bytes"):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10**6

    def test_an_endless_stream_is_read_to_one_byte_past_the_limit(self) -> None:
        stream = Endless()
        with pytest.raises(AudioTooLongError, match="allowed 1,000,000"):
            load(stream, max_bytes=1_000_000)
        assert stream.taken == 1_000_001

    def test_oversize_bytes_are_refused(self) -> None:
        with pytest.raises(AudioTooLongError, match=r"32,044 bytes.*allowed 1,000"):
            load(encode(sine()), max_bytes=1_000)

    @pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
    def test_the_header_is_checked_before_decoding(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def decode_nothing(*args: object, **kwargs: object) -> None:
            pytest.fail("sound was decoded")

        monkeypatch.setattr(decoding, "_read_mono", decode_nothing)
        clip = encode(np.zeros((2 * RATE, 2)), kind=kind)
        with pytest.raises(AudioTooLongError, match=r"2\.\d+ s, allowed 1 s"):
            load(clip, max_seconds=1.0)
        with pytest.raises(AudioFormatError, match="2 channels, allowed 1 to 1"):
            load(clip, max_channels=1)

    def test_a_false_header_does_not_admit_a_long_clip(self) -> None:
        data = bytearray(encode(sine(20), kind="FLAC"))
        claim = 2 * RATE
        data[21] &= 0xF0
        data[22:26] = claim.to_bytes(4, "big")
        with contextlib.suppress(AudioError):
            assert len(load(bytes(data), max_seconds=5.0)) <= 5 * RATE

    @pytest.mark.parametrize(
        "limits",
        [
            {"max_seconds": 0},
            {"max_seconds": float("nan")},
            {"max_seconds": float("inf")},
            {"min_seconds": -1},
            {"min_seconds": "1"},
            {"min_seconds": 40},
            {"max_bytes": 0},
            {"max_bytes": 1.5},
            {"max_channels": True},
        ],
    )
    def test_invalid_limits_are_refused(self, limits: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(limits))):
            AudioLimits(**limits)

    def test_limits_can_be_changed(self) -> None:
        assert len(load(encode(sine(0.02)), min_seconds=0.01)) == 320
        assert len(load((np.stack([sine()] * 12), RATE), max_channels=12)) == RATE

    @pytest.mark.parametrize("rate", [0, 999, 10**9, 16e3, None, True])
    def test_an_invalid_target_rate_is_refused(self, rate: Any) -> None:  # noqa: ANN401
        with pytest.raises(AudioFormatError, match="sample_rate"):
            load_audio((sine(), RATE), sample_rate=rate)


class TestDamage:
    def test_an_mp3_that_lost_its_last_frame_is_taken(self) -> None:
        data = encode(sine(5), kind="MP3")
        assert 0.9 * 5 * RATE <= len(load(data[:-200])) <= 5 * RATE

    def test_an_mp3_that_lost_a_fifth_is_refused(self) -> None:
        data = encode(sine(5), kind="MP3")
        with pytest.raises(AudioDecodeError, match=r"claims 5\.000 s, found [34]\."):
            load(data[: int(0.8 * len(data))])

    def test_a_wav_that_lost_little_is_taken(self) -> None:
        data = encode(sine())
        assert len(load(data[: int(0.95 * len(data))])) >= 0.9 * RATE


class TestFfmpeg:
    @staticmethod
    def transcode(path: Path, *options: str) -> bytes:
        source = encode(sine(2.0), subtype="PCM_16")
        program = ["ffmpeg", "-v", "error", "-y", "-i", "pipe:0", *options, str(path)]
        subprocess.run(program, input=source, check=True)
        return path.read_bytes()

    @needs_ffmpeg
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("clip.m4a", ()),
            ("clip.m4a", ("-movflags", "+faststart", "-ar", "44100")),
            ("clip.aac", ()),
        ],
    )
    def test_a_phone_s_clip_keeps_its_level(
        self, tmp_path: Path, name: str, options: tuple[str, ...]
    ) -> None:
        loaded = load(self.transcode(tmp_path / name, *options))
        assert len(loaded) == pytest.approx(2 * RATE, rel=0.1)
        middle = loaded[RATE // 2 : RATE]
        assert np.std(middle) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
        assert np.argmax(np.abs(np.fft.rfft(middle))) == 220

    @needs_ffmpeg
    def test_an_index_beyond_the_read_buffer_is_found(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, (25 * 48_000, 2))
        path = tmp_path / "clip.m4a"
        program = ["ffmpeg", "-v", "error", "-i", "pipe:0", "-b:a", "320k", str(path)]
        subprocess.run(program, input=encode(noise, 48_000), check=True)
        data = path.read_bytes()
        assert data.rindex(b"moov") > 500_000
        assert len(load(data)) == pytest.approx(25 * RATE, rel=0.01)

    @needs_ffmpeg
    @pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
    @pytest.mark.parametrize("name", ["clip.m4a", "clip.aac"])
    def test_a_cut_clip_is_refused(
        self, tmp_path: Path, name: str, share: float
    ) -> None:
        data = self.transcode(tmp_path / name, "-fflags", "+bitexact")
        with pytest.raises(AudioDecodeError, match="ffmpeg says"):
            load(data[: int(share * len(data))])

    @needs_ffmpeg
    def test_limits_hold(self, tmp_path: Path) -> None:
        data = self.transcode(tmp_path / "clip.m4a")
        with pytest.raises(AudioTooLongError, match="allowed 1 s"):
            load(data, max_seconds=1.0)

    @needs_ffmpeg
    def test_output_cut_at_the_size_limit_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(transcoding, "_MAX_OUTPUT_BYTES", 50_000)
        data = self.transcode(tmp_path / "clip.m4a")
        with pytest.raises(AudioTooLongError, match="50,000 bytes or more"):
            load(data)

    def test_without_ffmpeg_the_error_says_so(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(
            AudioDecodeError, match=r"m4a, which needs ffmpeg.*wav, flac, ogg"
        ):
            load(b"\0\0\0\x20ftypM4A " + bytes(99))

    @pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("#!/bin/sh\nexec sleep 9\n", "took ffmpeg more than 0.2 s"),
            ("#!/no/such/shell\n", "did not start"),
            ("#!/bin/sh\necho sorry >&2; exit 1\n", "ffmpeg says 'sorry'"),
            ("#!/bin/sh\nexit 0\n", "holds|damaged|empty"),
        ],
    )
    def test_a_failing_ffmpeg_is_wrapped(
        self, script: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        program = tmp_path / "ffmpeg"
        program.write_text(script)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(transcoding, "_TIMEOUT_S", 0.2)
        with pytest.raises(AudioDecodeError, match=said):
            load(b"\0\0\0\x20ftypM4A " + bytes(99))


def test_threads_do_not_disturb_one_another() -> None:
    clips = [
        encode(sine(0.5, rate, level), rate, kind)
        for kind in ("WAV", "FLAC", "OGG", "MP3")
        for rate in (16_000, 44_100)
        for level in (0.2, 0.4)
    ]
    bad = encode(sine(4), kind="MP3")[:2_500]
    expected = [load(clip) for clip in clips]

    def work(index: int) -> None:
        at = index % len(clips)
        np.testing.assert_array_equal(load(clips[at]), expected[at])
        with pytest.raises(AudioDecodeError):
            load(bad)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(160)))


class TestResampling:
    @pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
    @pytest.mark.parametrize("size", [1, 999, 16_001])
    def test_it_is_the_same_where_librosa_cannot_run(
        self, rate: int, size: int
    ) -> None:
        wave = sine(2.0)[40 : 40 + size]
        expected = loading._resampler()(wave, rate, RATE)
        found = loading._resample_by_soxr(wave, rate, RATE)
        np.testing.assert_array_equal(found, expected)

    def test_a_clip_is_resampled_where_librosa_cannot_run(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loading._resampler.cache_clear()
        # As Python has it for a module that cannot be imported.
        monkeypatch.setitem(sys.modules, "librosa", None)
        try:
            found = load_audio((sine(rate=8_000), 8_000), sample_rate=RATE)
            assert loading._resampler() is loading._resample_by_soxr
        finally:
            loading._resampler.cache_clear()
        assert len(found) == RATE
