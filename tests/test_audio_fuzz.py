"""Throw thousands of malformed clips at the audio door.

Whatever comes in, either samples that a model may hear go out or an `AudioError`.
"""

from __future__ import annotations

import io
import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sarguard.audio import AudioLimits, load_audio
from sarguard.errors import AudioError

TARGET = 16_000
LIMITS = AudioLimits(max_seconds=2.0, max_bytes=2**20)
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-ulaw": ("WAV", "ULAW"),
    "wav-adpcm": ("WAV", "MS_ADPCM"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
}
MAGICS = (
    b"RIFF\xff\xff\xff\xffWAVEfmt ",
    b"RIFX\x00\x00\x00\xffWAVE",
    b"fLaC\x00\x00\x00\x22",
    b"OggS\x00\x02",
    b"ID3\x04\x00\x00\x00\x00\x00\x10",
    b"\xff\xfb\x90\x64",
    b"FORM\x00\x00\x01\x00AIFFCOMM",
    b".snd\x00\x00\x00\x18",
    b"caff\x00\x01\x00\x00",
    b"",
)


def attempt(source: Any) -> Any:  # noqa: ANN401
    """Return what the door lets through, or the error it gives."""
    try:
        return load_audio(source, sample_rate=TARGET, limits=LIMITS)
    except AudioError as error:
        return error


def throw(source: Any) -> str:  # noqa: ANN401
    """Throw a source at the door, judge what comes out and name it."""
    heard = attempt(source)
    if isinstance(heard, AudioError):
        assert 20 < len(str(heard)) < 500
        assert str(heard).endswith(".")
        return type(heard).__name__
    assert isinstance(heard, np.ndarray)
    assert heard.dtype == np.float32
    assert heard.ndim == 1
    assert heard.flags.c_contiguous
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() <= 1.0
    least, most = LIMITS.min_seconds * TARGET, LIMITS.max_seconds * TARGET
    assert math.floor(least) <= len(heard) <= math.ceil(most)
    return "heard"


@cache
def valid_clip(kind: str) -> bytes:
    container, subtype = KINDS[kind]
    times = np.arange(8_000) / TARGET
    clip = np.stack([np.sin(2000 * times), np.sin(3000 * times)], axis=1) * 0.4
    buffer = io.BytesIO()
    soundfile.write(buffer, clip, TARGET, format=container, subtype=subtype)
    return buffer.getvalue()


def mutate(data: bytes, rng: np.random.Generator, reach: int) -> bytes:
    """Overwrite, insert or drop a few bytes within the first `reach`."""
    mutant = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        at = int(rng.integers(0, min(reach, len(mutant))))
        match rng.integers(0, 6):
            case 0:
                mutant[at : at + 4] = rng.bytes(4)
            case 1:
                mutant[at : at + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, b"\x7f" * 4])
            case 2:
                mutant[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 3:
                del mutant[at : at + int(rng.integers(1, 9))]
            case _:
                mutant[at] = int(rng.integers(0, 256))
    return bytes(mutant)


def ogg_checksum(page: bytes) -> int:
    """Compute the CRC that an Ogg page carries, with its own field as zero."""
    checksum = 0
    for byte in page:
        checksum = (checksum << 8 & 0xFFFFFFFF) ^ CRC_TABLE[checksum >> 24 ^ byte]
    return checksum


def crc_entry(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


CRC_TABLE = tuple(crc_entry(byte) for byte in range(256))


def with_true_checksums(data: bytes) -> bytes:
    """Sign the mutated pages of an Ogg file anew, or its reader would skip them."""
    pages = data.split(b"OggS")
    for index, body in enumerate(pages[1:4], start=1):
        blank = b"OggS" + body[:18] + bytes(4) + body[22:]
        checksum = ogg_checksum(blank).to_bytes(4, "little")
        pages[index] = body[:18] + checksum + body[22:]
    return b"OggS".join(pages)


def test_ogg_pages_are_signed_as_their_reader_expects() -> None:
    assert with_true_checksums(valid_clip("opus")) == valid_clip("opus")
    assert with_true_checksums(valid_clip("vorbis")) == valid_clip("vorbis")


def test_the_valid_clips_are_heard() -> None:
    assert {kind: throw(valid_clip(kind)) for kind in KINDS} == dict.fromkeys(
        KINDS, "heard"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_headers(kind: str) -> None:
    rng = np.random.default_rng(list(kind.encode()))
    mutants = (mutate(valid_clip(kind), rng, 160) for _ in range(200))
    seen = Counter(throw(with_true_checksums(mutant)) for mutant in mutants)
    # Were every mutant refused at the first byte, the decoders would go untested.
    assert seen["heard"] >= 1
    assert seen["AudioDecodeError"] >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_bodies(kind: str) -> None:
    rng = np.random.default_rng([7, *kind.encode()])
    data = valid_clip(kind)
    seen = Counter(throw(mutate(data, rng, len(data))) for _ in range(120))
    assert seen.total() == 120


@pytest.mark.parametrize("kind", KINDS)
def test_truncations(kind: str) -> None:
    rng = np.random.default_rng([11, *kind.encode()])
    data = valid_clip(kind)
    cuts = {*range(60), *rng.integers(0, len(data), 80).tolist(), len(data) - 1}
    seen = Counter(throw(data[:cut]) for cut in sorted(cuts))
    assert seen.total() - seen["heard"] >= 60


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not on PATH")
@pytest.mark.parametrize("kind", ["ipod", "adts", "webm"])
def test_mutants_that_go_through_ffmpeg(kind: str) -> None:
    rng = np.random.default_rng(list(kind.encode()))
    wav, options = valid_clip("wav"), ["-movflags", "+frag_keyframe+empty_moov"]
    program = ["ffmpeg", "-v", "error", "-i", "pipe:0"]
    program += [*(options if kind == "ipod" else ()), "-f", kind, "pipe:1"]
    clip = subprocess.run(program, input=wav, check=True, capture_output=True).stdout
    assert throw(clip) == "heard"
    for reach in [200] * 8 + [len(clip)] * 4:
        throw(mutate(clip, rng, reach))


def test_random_bytes_behind_every_magic() -> None:
    rng = np.random.default_rng(3)
    for index in range(800):
        magic = MAGICS[index % len(MAGICS)]
        throw(magic + rng.bytes(int(rng.integers(0, 3_000))))


def test_the_head_of_one_format_on_the_body_of_another() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        head, body = (valid_clip(str(kind)) for kind in rng.choice(list(KINDS), 2))
        cut = int(rng.integers(1, 400))
        throw(head[:cut] + body[int(rng.integers(0, cut)) :])


def odd_arrays(rng: np.random.Generator, count: int) -> Iterator[tuple[Any, Any]]:
    """Yield (array, rate) pairs of every dtype, with odd shapes, values and rates."""
    dtypes = ["i1", "i2", ">i2", "i4", "u1", "u2", "i8", "f2", "f4", ">f4", "f8"]
    dtypes += ["f16", "c8", "?", "U1", "O", "M8[s]"]
    lengths = [0, 1, 2, 9, 64, 399, 1_600, 5_000, 9_000, 33_000]
    scales = [0.0, 1e-4, 0.1, 0.1, 0.3, 3.0, 32_768.0, 1e38, 1e300, np.inf, np.nan]
    rates: list[Any] = [16_000, 8_000, 44_100, 384_000, np.int64(22_050), 4_001] * 3
    rates += [0, -1, 3_999, 10**6, 2**80, 16e3, None, "16000", True, np.array([8000])]
    for _ in range(count):
        rank = int(rng.choice([0, 1, 1, 1, 2, 2, 2, 3]))
        shape = [int(size) for size in rng.choice(lengths, rank)]
        if rank > 1:
            shape[int(rng.integers(0, rank))] = int(rng.integers(0, 10))
        if math.prod(shape) > 400_000:
            continue
        with np.errstate(all="ignore"):
            values = np.asarray(rng.standard_normal(shape) * rng.choice(scales))
        name = str(rng.choice(dtypes))
        yield cast(values, name), rates[int(rng.integers(0, len(rates)))]


def cast(values: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """Cast without caring how a value that does not fit comes out."""
    if dtype == "M8[s]":
        return np.zeros(values.shape, dtype)
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def test_odd_arrays() -> None:
    seen = Counter(throw(pair) for pair in odd_arrays(np.random.default_rng(1), 3_000))
    assert seen["heard"] >= 20
    assert seen["AudioFormatError"] >= 100
    assert seen["AudioTooShortError"] >= 5
    assert seen["AudioTooLongError"] >= 5


def test_strided_and_read_only_arrays() -> None:
    base = np.sin(np.arange(40_000) / 5).astype(np.float32)
    base.flags.writeable = False
    assert throw((base[::2], TARGET)) == "heard"
    assert throw((base[::-2], TARGET)) == "heard"
    assert throw((np.broadcast_to(base[:20_000], (2, 20_000)), TARGET)) == "heard"
    assert throw((np.ma.masked_array(base[:20_000]), TARGET)) == "heard"


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    array=st.one_of(
        hnp.arrays(
            st.one_of(hnp.scalar_dtypes(), st.just(np.dtype(np.float32))),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
        ),
        hnp.arrays(
            np.float32,
            st.integers(1_600, 4_000),
            elements=st.floats(-3, 3, width=32),
            fill=st.floats(width=32),
        ),
    ),
    rate=st.one_of(st.integers(), st.integers(4_000, 48_000), st.none(), st.floats()),
)
def test_any_array(array: np.ndarray[Any, Any], rate: object) -> None:
    throw((array, rate))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=60).filter(lambda path: path not in (".", "/")),
        st.binary(max_size=60).map(io.BytesIO),
        st.text(max_size=60).map(io.StringIO),
        st.integers(),
        st.floats(),
        st.none(),
        st.lists(st.integers(), max_size=3),
        st.lists(st.integers(), max_size=3).map(tuple),
        st.dictionaries(st.text(), st.integers(), max_size=2),
    )
)
def test_any_object(source: object) -> None:
    assert throw(source) != "heard"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_edit_of_a_header(kind: str, data: st.DataObject) -> None:
    clip = bytearray(valid_clip(kind))
    at = data.draw(st.integers(0, 120))
    clip[at : at + 8] = data.draw(st.binary(max_size=8))
    throw(bytes(clip))
