"""Commands of the synthesisers, and what they write."""

from __future__ import annotations

import numpy as np

from sarguard.datasets import synthesis
from sarguard.datasets.synthesis import command
from sarguard.datasets.voices import Voice


def test_a_voice_is_a_command() -> None:
    espeak = Voice(engine="espeak-ng", name="en-gb+m1", speed=150.4, pitch=40)
    flite = Voice(engine="flite", name="slt", speed=1.125, pitch=None)
    assert command("hi", espeak) == (
        ["espeak-ng", "-v", "en-gb+m1", "-s", "150", "-p", "40", "--stdout", "hi"]
    )
    assert command("hi", flite) == [
        *("flite", "-voice", "slt", "--setf", "duration_stretch=1.12"),
        *("-t", "hi", "-o", "/dev/stdout"),
    ]
    low = Voice(engine="flite", name="slt", speed=1.0, pitch=110)
    assert "int_f0_target_mean=110" in command("hi", low)


def test_a_header_that_does_not_know_its_length_is_read() -> None:
    samples = np.arange(-500, 500, dtype="<i2")
    header = bytearray(b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(20))
    header[24:28] = (22_050).to_bytes(4, "little")
    stream = bytes(header) + b"data\xff\xff\xff\xff" + samples.tobytes() + b"\0"
    found, rate = synthesis._read_stream(stream)
    assert rate == 22_050
    np.testing.assert_allclose(found * 32768, samples)
