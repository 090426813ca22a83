"""Write, read, search, prove, rotate and bury through the ledger's public face."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.audit import AuditLog, Pace, Privacy, Query
from sarguard.audit.proof import standalone_verifier
from sarguard.audit.proof.inclusion import InclusionProof, prove, prove_consistency
from sarguard.audit.proof.merkle import verify_consistency
from sarguard.audit.proof.signed_notes import VerifierKey
from sarguard.audit.proof.signing_keys import SigningKey
from sarguard.audit.proof.verify import verify
from sarguard.audit.records.fields import (
    AppliedDose,
    AudioDescription,
    Content,
    Durations,
    FallbackRef,
    FaultRef,
    InputDescription,
    OutputDescription,
    Score,
    SteeringReceipt,
    SteeringRef,
)
from sarguard.audit.records.ids import NAME, new_name, time_text, time_us
from sarguard.audit.records.schema import EVENTS, KINDS, json_schema, parse
from sarguard.audit.storage.recorder import OnFailure
from sarguard.errors import (
    AuditFormatError,
    AuditKeyError,
    AuditNotFoundError,
    AuditRecordError,
)
from sarguard.types import Outcome
from tests.audit.ledgers import POLICY, ask, check, fill

MARK = "ab" * 32


def test_a_full_request_is_kept_as_the_bytes_that_were_hashed(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        begun = log.started(
            entry="stream",
            policy=POLICY,
            steering=SteeringRef(bundle_digest=MARK, layers=2),
            input=InputDescription(
                audio=(AudioDescription(mark=MARK, seconds=1.25),), text_chars=9
            ),
            tenant="wärd",
            session=MARK,
            mark_key="k1",
            request_id="caller-7",
        )
        done = log.finished(
            str(begun.audit_id),
            outcome=Outcome.REFUSED,
            reason="refused",
            scores=[Score(name="harm", value=0.12345678, threshold=0.5)],
            dose=AppliedDose(mode="faithful", alpha=0.1),
            receipt=SteeringReceipt(
                steered_positions=4,
                expected_positions=4,
                layers=2,
                bundle_digest=MARK,
                attested=True,
            ),
            output=OutputDescription(text_mark=MARK, text_chars=3),
            timings=Durations(total_s=0.1),
            fallback=FallbackRef(reason="refused", locale="de"),
            fault=FaultRef(type="TimeoutError"),
            content=[Content(part="input_text", mode="redacted", text="[name] asks")],
        )
        first, last = log.request(str(begun.audit_id))
    assert (begun.seq, done.seq, done.state) == (2, 3, "recorded")
    stored = json.loads(last.data)
    assert stored["tenant"] == "wärd"
    assert stored["session"] == MARK
    assert stored["scores"] == [{"name": "harm", "threshold": 0.5, "value": 0.123457}]
    assert stored["prev"] == sha256(b"\x00" + first.data).hexdigest() == first.leaf
    assert b"k1" in first.data
    assert parse(last.data) == last.record


def test_search_finds_what_is_asked_for(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        before = datetime.now(UTC)
        names = [ask(log, tenant=f"ward-{n % 2}", session=MARK) for n in range(6)]
        log.event("accessed", action="lookup", mark="cd" * 32)
        assert log.reader.count(Query(outcome="answered")) == 6
        assert log.reader.count(Query(tenant="ward-1", kind="request_started")) == 3
        assert log.reader.count(Query(policy="clinic", outcome="refused")) == 0
        assert log.reader.count(Query(containing="cd" * 32)) == 1
        assert log.reader.count(Query(since=before)) == 13
        assert log.reader.count(Query(until=before)) == 1
        later = before + timedelta(hours=1)
        assert log.reader.count(Query(since=later.isoformat())) == 0
        newest = next(iter(log.search(Query(outcome="answered"))))
        assert newest.record.audit_id == names[-1]
        assert [e.seq for e in log.search(Query(), limit=2)] == [14, 13]
        assert log.reader.tally("tenant", Query(outcome="answered")) == {
            "ward-0": 3,
            "ward-1": 3,
        }
        with pytest.raises(AuditRecordError, match="no zone"):
            list(log.search(Query(since=datetime(2026, 1, 1))))
        with pytest.raises(AuditRecordError, match="not a time"):
            list(log.search(Query(since="yesterday")))
        with pytest.raises(AuditRecordError, match="counted by"):
            log.reader.tally("record", Query())


@pytest.mark.parametrize("words", ["' OR 1=1 --", '"; DROP TABLE records', "%"])
def test_a_query_is_never_read_as_sql(tmp_path: Path, words: str) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        ask(log)
        assert list(log.search(Query(tenant=words))) == []
    assert check(log.path).ok


def test_events_are_a_closed_set(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        with pytest.raises(AuditRecordError, match="unknown record kind"):
            log.event("party", guests=3)
        with pytest.raises(AuditRecordError, match="fills these in"):
            log.event("accessed", action="search", seq=7)
        with pytest.raises(AuditRecordError, match="extra_forbidden"):
            log.event("accessed", action="search", colour="red")
        with pytest.raises(AuditRecordError, match="started and finished"):
            log.event("request_started", entry="generate")
    assert set(KINDS) == {"request_started", "request_finished", *EVENTS}
    assert len(json_schema()["oneOf"]) == len(KINDS)


def test_a_request_of_one_process_is_finished_by_another(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with AuditLog.open(path) as log:
        begun = log.started(entry="generate", tenant="ward", policy=POLICY)
    assert [e.seq for e in log.unfinished()] == [begun.seq]
    with AuditLog.open(path) as log:
        log.finished(str(begun.audit_id), outcome="cancelled")
        assert log.reader.count(Query(tenant="ward", outcome="cancelled")) == 1
        assert list(log.unfinished()) == []


def test_every_record_of_a_large_ledger_is_proven(tmp_path: Path) -> None:
    path = fill(tmp_path / "a.db", requests=150)
    text = (tmp_path / "a.db.key").read_text()
    assert text.startswith("PRIVATE+KEY+")
    with AuditLog.open(path, read_only=True) as log:
        size = log.reader.size()
        key = VerifierKey.parse(verify(path).keys[0])
        for seq in (1, 2, 255, 256, 257, 258, size):
            proof = prove(path, seq)
            entry = log.reader.get(seq)
            assert InclusionProof.parse(str(proof)) == proof
            assert proof.verifies(entry.data, key)
            assert not proof.verifies(entry.data + b" ", key)
            record, evidence = tmp_path / "r.json", tmp_path / "r.tlog-proof"
            record.write_bytes(entry.data + b"\n")
            evidence.write_text(str(proof))
            given = ["proof", str(record), str(evidence), "--key", str(key)]
            assert standalone_verifier.main(given) == 0
            record.write_bytes(entry.data.replace(b"seq", b"sEq"))
            assert standalone_verifier.main(given) == 1
        roots = {c.size: c.root for c in log.reader.checkpoints()}
        old = sorted(roots)[1]
        growth = prove_consistency(path, old, size)
        assert verify_consistency(old, size, growth, roots[old], roots[size])
    with pytest.raises(AuditNotFoundError, match="covers"):
        prove(path, size + 1)
    with pytest.raises(AuditNotFoundError, match="no growth"):
        prove_consistency(path, 1, size + 1)
    for text in ("", "c2sp.org/tlog-proof@v1\nindex x\n\n", "a\nindex 1\n\n"):
        with pytest.raises(AuditFormatError):
            InclusionProof.parse(text)


def test_a_key_hands_over_to_the_next(tmp_path: Path) -> None:
    path = fill(tmp_path / "a.db")
    with AuditLog.open(path) as log, AuditLog.open(path) as other:
        old = log.verifier
        new = SigningKey.generate(old.name)
        with pytest.raises(AuditKeyError, match="another"):
            log.rotate_key(SigningKey.load(f"{path}.key"))
        with pytest.raises(AuditKeyError, match="name it"):
            log.rotate_key(SigningKey.generate("someone.else/log"))
        log.rotate_key(new)
        assert log.verifier == new.verifier
        # A process that has the old key in memory finds the new one.
        ask(other)
        handover = log.reader.checkpoint()
        assert handover is not None
        assert handover.signed_by(old)
        assert handover.signed_by(new.verifier)
    report = verify(path, key=old)
    assert report.ok, str(report)
    assert report.keys == (str(old), str(new.verifier))
    assert standalone_verifier.main(["ledger", str(path), "--key", str(old)]) == 0
    with AuditLog.open(path) as log:
        ask(log)
    assert check(path).ok


def test_deleted_segments_leave_their_hashes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    mirror = tmp_path / "mirror.txt"
    pace = Pace(segment_records=20, checkpoint_records=8)
    with AuditLog.open(path, mirror=mirror, pace=pace) as log:
        names = [ask(log) for _ in range(50)]
        sealed = log.segments()
        assert [s.segment for s in sealed] == list(range(1, len(sealed) + 1))
        log.rotate_key(SigningKey.generate(log.verifier.name))
        assert log.delete_segment(1, retention_days=0, reason="age") == 20
        # Out of order; then a segment that holds tombstones itself.
        log.delete_segment(3, retention_days=0, reason="age", actor="dpo")
        for _ in range(40):
            ask(log)
        holder = log.segments()[5]
        log.delete_segment(holder.segment, retention_days=0, reason="age")
        with pytest.raises(AuditRecordError, match="buried already"):
            log.delete_segment(1, retention_days=0, reason="age")
        with pytest.raises(AuditRecordError, match="no sealed segment"):
            log.delete_segment(99, retention_days=0, reason="age")
        assert log.request(names[0]) == []
        assert [s.segment for s in log.segments() if s.buried] == [1, 3, holder.segment]
    report = check(path, anchored=True)
    assert report.ok, str(report)
    assert report.buried == 20 + 20 + holder.last_seq - holder.first_seq + 1
    for seq in (sealed[1].first_seq, report.size):
        with AuditLog.open(path, read_only=True) as reader:
            data = reader.reader.get(seq).data
        assert prove(path, seq).verifies(data, VerifierKey.parse(report.keys[-1]))
    assert standalone_verifier.main(["ledger", str(path)]) == 0
    with AuditLog.open(path) as log:
        ask(log)
    assert check(path).ok


@given(st.integers(0, 4_102_444_800_000_000))
def test_times_come_back(micros: int) -> None:
    assert time_us(time_text(micros)) == micros


def test_names_sort_by_time() -> None:
    names = [new_name("req") for _ in range(50)]
    assert len(set(names)) == 50
    assert all(NAME.match(name) for name in names)
    assert [n[:14] for n in names] == sorted(n[:14] for n in names)
    with pytest.raises(ValueError, match="not a time"):
        time_us("2026-01-01")


@pytest.mark.parametrize("on_failure", ["block", "spool"])
def test_a_program_may_change_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_failure: OnFailure
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    with AuditLog.open(
        "a.db", key="a.key", mirror="a.mirror", spool="a.spool", on_failure=on_failure
    ) as log:
        privacy = Privacy.open("a.db")
        begun = log.started(entry="generate")
        monkeypatch.chdir(elsewhere)
        log.finished(str(begun.audit_id), outcome=Outcome.ANSWERED)
        assert privacy.keyring.pseudonyms().session("call-1")
        assert len(list(log.search(Query()))) >= 3
        assert log.checkpoint() is not None
    assert list(elsewhere.iterdir()) == []
    assert (here / "a.mirror").read_text("utf-8")
    assert verify(here / "a.db").ok


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with AuditLog.open(tmp_path / "a.db") as log:
            log.started(entry="generate")
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in tmp_path.iterdir()
            }
    finally:
        os.umask(before)
    assert {"a.db", "a.db.key"} <= set(modes)
    assert set(modes.values()) == {0o600}
