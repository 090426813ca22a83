from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.audit.privacy.pseudonyms import Pseudonyms, pcm16
from sarguard.errors import AuditRecordError
from tests.audit.filled import RATE, clip

PSEUDONYMS = Pseudonyms(key_id="mark_1", secret=b"k" * 32)


def test_a_pseudonym_is_the_hmac_of_its_domain_and_content() -> None:
    expected = hmac.new(
        b"k" * 32, b"sarguard mark v1\x00text\x00caf\xc3\xa9", hashlib.sha256
    ).hexdigest()
    assert PSEUDONYMS.text("café") == expected
    assert PSEUDONYMS.text("cafe\u0301") == expected


def test_an_audio_pseudonym_covers_the_rate_and_the_samples() -> None:
    samples = np.array([0.0, 0.5, -1.0, 1.0], dtype=np.float32)
    assert pcm16(samples) == np.array([0, 16384, -32768, 32767], "<i2").tobytes()
    expected = hmac.new(
        b"k" * 32,
        b"sarguard mark v1\x00audio\x0016000\x00" + pcm16(samples),
        hashlib.sha256,
    ).hexdigest()
    assert PSEUDONYMS.audio(samples, 16000) == expected
    assert PSEUDONYMS.audio(samples, 8000) != expected


def test_kinds_never_collide() -> None:
    made = {PSEUDONYMS.text("a"), PSEUDONYMS.session("a"), PSEUDONYMS.actor("a")}
    assert len(made) == 3


@given(st.binary(min_size=32, max_size=32), st.text())
def test_another_secret_gives_another_pseudonym(secret: bytes, text: str) -> None:
    other = Pseudonyms(key_id="mark_2", secret=bytes(b ^ 1 for b in secret))
    one = Pseudonyms(key_id="mark_1", secret=secret)
    assert one.text(text) != other.text(text)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8), np.float32), np.array([np.nan], np.float32)]
)
def test_what_is_no_clip_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(AuditRecordError, match="finite mono samples"):
        PSEUDONYMS.audio(bad, RATE)


def test_the_secret_is_not_shown() -> None:
    assert "kkk" not in repr(PSEUDONYMS)


def test_sixteen_bit_samples_survive_floats_exactly() -> None:
    whole = np.arange(-32768, 32768, dtype=np.int32)
    floats = (whole / 32768.0).astype(np.float32)
    assert np.array_equal(np.frombuffer(pcm16(floats), "<i2"), whole)
    assert PSEUDONYMS.audio(clip(1), RATE) != PSEUDONYMS.audio(clip(2), RATE)
