from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sarguard.audit import AuditLog
from sarguard.audit.privacy.redaction import RedactedText
from sarguard.audit.records.fields import Content
from sarguard.errors import ConfigurationError
from tests.audit.filled import (
    RATE,
    SECRET_ANSWER,
    SECRET_WORDS,
    ask,
    clip,
    ledger,
)
from tests.logs import capture_logs


def _contents(log: AuditLog, audit_id: str) -> list[Content]:
    return [c for entry in log.request(audit_id) for c in entry.record.content]


def test_by_default_no_byte_of_content_is_anywhere(tmp_path: Path) -> None:
    """Search ledger, write-ahead log, keys and operational log lines."""
    log, privacy = ledger(tmp_path)
    with capture_logs() as lines, log:
        ask(log, privacy, seed=7, tenant="acme")
        wal = (tmp_path / "audit.db-wal").read_bytes()
        assert b"request_finished" in wal, "the scan looks where records are"
        found = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    found += json.dumps(lines, default=str).encode()
    found += b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for needle in needles(7):
        assert needle not in found


def needles(seed: int) -> list[bytes]:
    """Return pieces of what was said, in the forms in which it could leak."""
    samples = clip(seed)
    whole = (samples * 32768).round().astype("<i2")
    texts = [*SECRET_WORDS.split(), *SECRET_ANSWER.split(), "call-1"]
    long = [word.encode() for word in texts if len(word) > 6 or word == "call-1"]
    pieces = [samples[100:108].tobytes(), whole[100:108].tobytes()]
    hexes = [piece.hex().encode() for piece in pieces]
    return [*long, *pieces, *hexes]


def test_redacted_keeps_words_without_what_is_personal(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path, content="redacted")
    with log:
        name = ask(log, privacy, text="mail jane@example.org", answer="Done.")
        one, two = _contents(log, name)
    assert (one.text, one.redactions) == ("mail [email]", 1)
    assert one.engine == "sarguard.patterns/1"
    assert (two.part, two.text) == ("output_text", "Done.")


def test_encrypted_keeps_everything_sealed(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path, content="encrypted")
    with log:
        name = ask(log, privacy, seed=3)
        opened = {c.part: privacy.sealer.unseal(c) for c in _contents(log, name)}
    assert opened["input_text"].decode() == SECRET_WORDS
    assert opened["output_text"].decode() == SECRET_ANSWER
    samples, rate = soundfile.read(io.BytesIO(opened["input_audio"]), dtype="float32")
    assert rate == RATE
    assert np.abs(samples - clip(3)).max() < 1 / 32000
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert all(needle not in held for needle in needles(3))


class _Broken:
    name = "broken/1"

    def redact(self, text: str) -> RedactedText:
        raise RuntimeError("the model for names is not loaded")


def test_a_redactor_that_fails_keeps_nothing(tmp_path: Path) -> None:
    _, privacy = ledger(tmp_path, content="redacted")
    privacy.redactor = _Broken()
    with pytest.raises(RuntimeError, match="not loaded"):
        privacy.keep_text("input_text", SECRET_WORDS)


def test_unknown_modes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="redacted"):
        ledger(tmp_path, content="all")
