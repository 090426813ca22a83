"""Nothing of what was said or heard stands anywhere under the default policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sarguard.audit.exports.writing import FORMATS, export
from sarguard.policy.model import Policy
from sarguard.serving import batch_engine
from tests import tiny
from tests.guard.conftest import Open, policy

WORDS = "Zanzibar quokka 7731"
PEOPLE = ("session-of-mallory", "mallory@example.org")


def traces(samples: np.ndarray) -> list[bytes]:
    """Return stretches of a clip in every form that it could stand somewhere."""
    scaled = np.round(samples * 32768)
    forms = [
        samples.astype("<f4").tobytes(),
        samples.astype("<f8").tobytes(),
        np.clip(scaled, -32768, 32767).astype("<i2").tobytes(),
    ]
    return [form[start : start + 24] for form in forms for start in (0, 4800, 12_000)]


@pytest.mark.parametrize("failing", [False, True])
def test_no_file_and_no_line_holds_content(
    opened: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    failing: bool,
) -> None:
    samples = np.random.default_rng(7).uniform(-0.5, 0.5, 8000).astype(np.float32)
    balanced = Policy.preset("balanced")
    client = opened(policy=policy(audit=balanced.audit.model_dump(mode="json")))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"could not decode {WORDS!r}")

    if failing:
        monkeypatch.setattr(batch_engine, "decode_rows", fail)
    reply = client.generate(
        audio=(samples, tiny.RATE), text=WORDS, session=PEOPLE[0], max_new_tokens=4
    )
    assert client.audit is not None
    for form in FORMATS:
        export(client.audit, tmp_path / f"export.{form}", form)
    wal = tmp_path / "audit.db-wal"
    assert wal.stat().st_size > 0
    out, err = capfd.readouterr()
    (tmp_path / "log.txt").write_text(out + err)
    marks = [*traces(samples), WORDS.encode(), WORDS.encode("utf-16-le")]
    marks += [PEOPLE[0].encode(), *([] if failing else [reply.text.encode()])]
    places = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(places) >= 8
    for path in places:
        held = path.read_bytes()
        assert not [mark for mark in marks if len(mark) > 3 and mark in held], path.name
    client.close()
    assert WORDS.encode() not in (tmp_path / "audit.db").read_bytes()
