from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from sarguard.audio import load_audio
from sarguard.audit.operations.subject_lookup import (
    audio_pseudonym,
    lookup,
    record_access,
)
from sarguard.audit.privacy.content import Privacy
from tests.audit.filled import RATE, SECRET_WORDS, ask, clip, ledger


@pytest.mark.parametrize(("name", "subtype"), [("f.wav", "PCM_16"), ("f.flac", None)])
def test_a_file_finds_its_caller_s_records(
    tmp_path: Path, name: str, subtype: str | None
) -> None:
    path = tmp_path / name
    soundfile.write(path, clip(9), RATE, subtype=subtype)
    heard = load_audio(path, sample_rate=RATE)
    log, privacy = ledger(tmp_path)
    with log:
        ask(log, privacy, seed=1)
        begun = log.started(
            entry="generate", input=privacy.describe_input(clips=[(heard, RATE)])
        )
        found = lookup(log, privacy.keyring, audio_pseudonym(path))
    assert [entry.seq for entry in found.entries] == [begun.seq]


def test_another_rate_is_heard_as_the_model_hears_it(tmp_path: Path) -> None:
    path = tmp_path / "phone.wav"
    soundfile.write(path, clip(9), 8000)
    heard = load_audio(path, sample_rate=RATE)
    log, privacy = ledger(tmp_path)
    with log:
        log.started(
            entry="generate", input=privacy.describe_input(clips=[(heard, RATE)])
        )
        assert len(lookup(log, privacy.keyring, audio_pseudonym(path)).entries) == 1


def test_records_under_an_old_secret_are_found(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        ask(log, privacy)
        privacy.keyring.rotate()
        ask(log, privacy)
        found = lookup(log, privacy.keyring, lambda each: each.text(SECRET_WORDS))
        assert len(found.entries) == 2
        assert len(set(found.pseudonyms)) == 2
        record_access(log, "lookup", found, actor="dpo", query="--text")
        last = list(log.entries())[-1].record
        assert (last.kind, last.found) == ("accessed", 2)  # type: ignore[attr-defined]
        again = lookup(log, privacy.keyring, lambda each: each.text(SECRET_WORDS))
    assert len(again.entries) == 2, "the look-up's own record is not the caller's"


def test_a_copy_of_the_ledger_alone_finds_nothing(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        ask(log, privacy)
        stranger = Privacy.open(tmp_path / "elsewhere.db")
        stranger.pseudonyms()
        found = lookup(log, stranger.keyring, lambda each: each.text(SECRET_WORDS))
    assert found.entries == ()
