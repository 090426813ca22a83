"""Attack a ledger in every way we could think of; each attack is found."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sarguard.audit import AuditLog, Query, export, prove
from sarguard.audit.operations.maintenance import rotation_statement
from sarguard.audit.proof import standalone_verifier
from sarguard.audit.proof.merkle import leaf_hash, root_of
from sarguard.audit.proof.signed_notes import Checkpoint
from sarguard.audit.proof.signing_keys import SigningKey, sign_checkpoint
from sarguard.audit.proof.verify import verify
from sarguard.errors import AuditIntegrityError, AuditKeyError
from tests.audit.ledgers import ask, check, codes, copy_of, fill, opened, rewrite, store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("whole") / "audit.db")


@pytest.fixture
def ledger(whole: Path, tmp_path: Path) -> Path:
    return copy_of(whole, tmp_path)


def seq_of(path: Path, kind: str, place: int = 2) -> int:
    with AuditLog.open(path, read_only=True) as log:
        found = log.search(Query(kind=kind), limit=None, newest_first=False)
        return [entry.seq for entry in found][place]


def standalone(path: Path, *more: str) -> int:
    return standalone_verifier.main(["ledger", str(path), *more])


def test_an_honest_ledger_is_valid(ledger: Path) -> None:
    report = check(ledger, anchored=True)
    assert report.ok, str(report)
    assert report.signed_size == report.size == report.anchored_size
    assert standalone(ledger, "--checkpoint", str(ledger.with_name("mirror.txt"))) == 0


def set_to(*place: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for name in place[:-1]:
            record = record[name]
        assert record.get(place[-1]) != value
        record[place[-1]] = value

    return change


EDITS = {
    "entry": ("request_started", set_to("entry", value="stream")),
    "tenant": ("request_started", set_to("tenant", value="other")),
    "time": ("request_started", set_to("time", value="2026-01-01T00:00:00.000000Z")),
    "clock": ("request_started", set_to("mono_ns", value=1)),
    "writer": ("request_started", set_to("writer", "pid", value=1)),
    "policy digest": ("request_finished", set_to("policy", "digest", value="sha256:0")),
    "policy version": ("request_finished", set_to("policy", "version", value="9")),
    "policy tier": ("request_finished", set_to("policy", "tier", value="permissive")),
    "model": ("request_started", set_to("model", "revision", value="r2")),
    "outcome": ("request_finished", set_to("outcome", value="refused")),
    "usage": ("request_finished", set_to("usage", "output_tokens", value=8)),
    "reason": ("request_finished", set_to("reason", value="other")),
    "review": ("reviewed", set_to("label", value="correct")),
    "reviewer": ("reviewed", set_to("reviewer", value="dr-who")),
    "an unknown field": ("reviewed", set_to("approved", value=True)),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_field(ledger: Path, what: str) -> None:
    kind, change = EDITS[what]
    rewrite(ledger, seq_of(ledger, kind, 0 if kind == "reviewed" else 2), change)
    assert {"chain", "checkpoint"} <= codes(check(ledger))
    assert standalone(ledger) == 1


def test_one_space_in_a_record(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute(
            "UPDATE records SET record = record || CAST(' ' AS BLOB) WHERE seq = 9"
        )
    assert not check(ledger).ok


def test_a_record_deleted_from_the_middle(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute("DELETE FROM records WHERE seq = 9")
    report = check(ledger)
    assert "missing" in codes(report)
    assert any("records 9 to 9" in problem.text for problem in report.problems)
    assert standalone(ledger) == 1


def test_a_record_deleted_and_the_rest_renumbered(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute("DELETE FROM records WHERE seq = 9")
        connection.execute("UPDATE records SET seq = seq - 1 WHERE seq > 9")
    assert {"number", "chain"} <= codes(check(ledger))


def test_two_records_that_change_places(ledger: Path) -> None:
    with opened(ledger) as connection:
        for old, new in ((8, 100), (9, 8), (100, 9)):
            connection.execute("UPDATE records SET seq=? WHERE seq=?", (new, old))
    assert {"number", "chain"} <= codes(check(ledger))
    assert standalone(ledger) == 1


def test_a_record_replayed_at_the_end(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute("DROP INDEX by_request")
        connection.execute(
            "INSERT INTO records SELECT (SELECT max(seq) + 1 FROM records), record, "
            "kind, time, audit_id, tenant, policy, outcome FROM records WHERE seq = 9"
        )
    assert {"number", "chain", "tables"} <= codes(check(ledger))
    assert standalone(ledger) == 1


def test_a_record_inserted(ledger: Path) -> None:
    with opened(ledger) as connection:
        for seq in range(30, 8, -1):
            connection.execute("UPDATE records SET seq=? WHERE seq=?", (seq + 1, seq))
        connection.execute(
            "INSERT INTO records SELECT 9, record, 'policy_loaded', time, NULL, "
            "tenant, policy, outcome FROM records WHERE seq = 8"
        )
    assert not check(ledger).ok


def test_a_record_put_before_the_first(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute(
            "INSERT INTO records SELECT 0, record, kind, time, NULL, tenant, policy, "
            "outcome FROM records WHERE seq = 1"
        )
    assert "number" in codes(check(ledger))


def cut_tail(ledger: Path, keep: int) -> None:
    with opened(ledger) as connection:
        connection.execute("DELETE FROM records WHERE seq > ?", (keep,))
        connection.execute("DELETE FROM checkpoints WHERE size > ?", (keep,))


def test_a_dropped_tail_against_an_outside_checkpoint(ledger: Path) -> None:
    cut_tail(ledger, 10)
    alone = check(ledger)
    assert alone.ok
    assert any("cut off the end" in text for text in alone.not_proven)
    report = check(ledger, anchored=True)
    assert codes(report) == {"truncated"}
    assert "records 11 to " in report.problems[0].text
    mirror = ledger.with_name("mirror.txt")
    assert standalone(ledger, "--checkpoint", str(mirror)) == 1


def test_a_dropped_tail_is_found_when_writing_begins_again(ledger: Path) -> None:
    cut_tail(ledger, 10)
    with pytest.raises(AuditIntegrityError, match="records 11 to"):
        AuditLog.open(ledger, mirror=ledger.with_name("mirror.txt"))


def test_a_dropped_tail_with_its_checkpoints_left(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute("DELETE FROM records WHERE seq > 10")
    assert "truncated" in codes(check(ledger))


def test_a_dropped_segment_is_named(ledger: Path) -> None:
    (segment,) = AuditLog.open(ledger, read_only=True).segments()
    with opened(ledger) as connection:
        connection.execute("DELETE FROM records WHERE seq <= ?", (segment.last_seq,))
    report = check(ledger)
    (text,) = [p.text for p in report.problems if p.code == "missing"]
    assert f"records 1 to {segment.last_seq} are missing (segment 1" in text
    assert segment.first_time in text
    assert standalone(ledger) == 1


def test_a_whole_ledger_rewritten_under_another_key(
    ledger: Path, tmp_path: Path
) -> None:
    key = str(SigningKey.load(f"{ledger}.key").verifier)
    (tmp_path / "forged").mkdir()
    forged = fill(tmp_path / "forged" / "audit.db", requests=14)
    assert check(forged).ok
    copies = ledger.with_name("mirror.txt").read_text()
    forged.with_name("mirror.txt").write_text(copies)
    assert {"checkpoint", "signature"} & codes(check(forged, anchored=True))
    assert codes(verify(forged, key=key)) == {"key"}
    assert standalone(forged, "--key", key) == 1
    with pytest.raises(AuditIntegrityError, match="is not the ledger"):
        AuditLog.open(forged, mirror=forged.with_name("mirror.txt"))


def rechain(path: Path, change: Callable[[dict[str, Any]], None], at: int) -> None:
    """Change a record and make every later one follow it, tiles and all."""
    with opened(path) as connection:
        rows = connection.execute("SELECT seq, record FROM records ORDER BY seq")
        prev = "0" * 64
        for seq, data in rows.fetchall():
            record = json.loads(data)
            if seq == at:
                change(record)
            record["prev"] = prev
            prev = leaf_hash(store(connection, seq, record)).hex()


def test_an_edit_with_every_hash_made_anew(ledger: Path) -> None:
    rechain(ledger, set_to("tenant", value="other"), 9)
    report = check(ledger)
    assert "chain" not in codes(report)
    assert "checkpoint" in codes(report)
    assert standalone(ledger) == 1


def test_an_edit_with_every_checkpoint_signed_by_another_key(ledger: Path) -> None:
    origin = SigningKey.load(f"{ledger}.key").verifier.name
    thief = SigningKey.generate(origin)
    rechain(ledger, set_to("tenant", value="other"), 9)
    with opened(ledger) as connection:
        rows = connection.execute("SELECT record FROM records ORDER BY seq").fetchall()
        leaves = [leaf_hash(data) for (data,) in rows]
        for (size,) in connection.execute("SELECT size FROM checkpoints").fetchall():
            plain = Checkpoint(origin, size, root_of(leaves[:size]))
            note = str(sign_checkpoint(plain, thief))
            connection.execute(
                "UPDATE checkpoints SET note=? WHERE size=?", (note, size)
            )
    assert {"signature", "segment"} <= codes(check(ledger))
    assert standalone(ledger) == 1


def test_a_forged_handover_to_another_key(ledger: Path) -> None:
    owner = SigningKey.load(f"{ledger}.key").verifier
    thief = SigningKey.generate(owner.name)
    with opened(ledger) as connection:
        seq, last = connection.execute(
            "SELECT seq, record FROM records ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        text = rotation_statement(owner.name, seq + 1, owner, thief.verifier)
        signed = b64encode(thief.sign(text.encode())).decode()
        header = {k: v for k, v in json.loads(last).items() if k != "kind"}
        record = {
            **header,
            "kind": "key_rotated",
            "seq": seq + 1,
            "prev": leaf_hash(last).hex(),
            "old_key": str(owner),
            "new_key": str(thief.verifier),
            "statement": text,
            "old_signature": signed,
            "new_signature": signed,
        }
        store(connection, seq + 1, record)
    assert codes(check(ledger)) == {"key"}
    assert standalone(ledger) == 1


def test_a_forged_tail_is_not_taken_for_signed(ledger: Path) -> None:
    size = check(ledger).size
    with opened(ledger) as connection:
        (last,) = connection.execute(
            "SELECT record FROM records WHERE seq = ?", (size,)
        ).fetchone()
        record = {**json.loads(last), "seq": size + 1, "prev": leaf_hash(last).hex()}
        store(connection, size + 1, record)
    report = check(ledger)
    assert report.signed_size == size < report.size
    assert any(f"who wrote records {size + 1}" in text for text in report.not_proven)


def test_a_record_of_another_ledger(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = fill(tmp_path / "other" / "audit.db")
    with closing(sqlite3.connect(other)) as connection:
        (data,) = connection.execute(
            "SELECT record FROM records WHERE seq = 9"
        ).fetchone()
    with opened(ledger) as connection:
        store(connection, 9, json.loads(data))
    assert "foreign" in codes(check(ledger))
    assert standalone(ledger) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [("outcome", "refused"), ("tenant", "other"), ("policy", None), ("time", 0)],
)
def test_a_record_hidden_from_search(ledger: Path, column: str, value: object) -> None:
    seq = seq_of(ledger, "request_finished")
    with opened(ledger) as connection:
        connection.execute(
            f"UPDATE records SET {column} = ? WHERE seq = ?", (value, seq)
        )
    report = check(ledger)
    assert "index" in codes(report)


def test_an_index_that_leaves_records_out(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute("DROP INDEX by_outcome")
        connection.execute(
            "CREATE INDEX by_outcome ON records (outcome, time) "
            "WHERE outcome IS NOT NULL AND outcome != 'answered'"
        )
    assert "tables" in codes(check(ledger))


def test_an_index_whose_content_was_changed(ledger: Path) -> None:
    """Rewrite a word in the index's pages only: a search would miss the record."""
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'by_outcome'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    data = bytearray(ledger.read_bytes())
    start, stop = (page - 1) * size, page * size
    part = bytes(data[start:stop])
    assert b"answered" in part
    data[start:stop] = part.replace(b"answered", b"answerex", 1)
    ledger.write_bytes(data)
    assert "damaged" in codes(check(ledger))


def test_a_planted_trigger(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute(
            "CREATE TRIGGER quiet BEFORE INSERT ON records "
            "WHEN NEW.outcome = 'error_closed' BEGIN SELECT raise(IGNORE); END"
        )
        connection.commit()
    assert "tables" in codes(check(ledger))


def test_a_missing_guard(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("DROP TRIGGER records_fixed")
    assert "tables" in codes(check(ledger))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET tenant = 'x'",
        "DELETE FROM records WHERE seq = 3",
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET note = ''",
        "INSERT INTO records (seq, record, kind, time) VALUES (999, '', 'x', 0)",
    ],
)
def test_an_accident_is_stopped_by_the_file(ledger: Path, statement: str) -> None:
    with (
        closing(sqlite3.connect(ledger)) as connection,
        pytest.raises(sqlite3.IntegrityError),
    ):
        connection.execute(statement)


def test_a_file_swapped_under_a_live_writer(ledger: Path, tmp_path: Path) -> None:
    with AuditLog.open(ledger) as log:
        ask(log)
        (tmp_path / "swap").mkdir()
        swap = fill(tmp_path / "swap" / "audit.db")
        swap.replace(ledger)
        with pytest.raises(AuditIntegrityError, match="replaced"):
            ask(log)
        with pytest.raises(AuditIntegrityError):
            log.close()


def test_records_changed_under_a_live_writer(ledger: Path) -> None:
    log = AuditLog.open(ledger)
    ask(log)
    with opened(ledger) as connection:
        connection.execute(
            "DELETE FROM records WHERE seq = (SELECT max(seq) FROM records)"
        )
    with pytest.raises(AuditIntegrityError, match="taken away"):
        ask(log)
    log.close()


def test_an_edit_behind_a_live_writer_is_not_signed_over(ledger: Path) -> None:
    with AuditLog.open(ledger) as log:
        ask(log)
        rewrite(ledger, 9, set_to("tenant", value="other"))
        ask(log)
    assert {"chain", "checkpoint"} <= codes(check(ledger))


def test_a_segment_deleted_too_early(ledger: Path) -> None:
    with AuditLog.open(ledger) as log:
        log.delete_segment(1, retention_days=183, reason="age")
    report = check(ledger)
    assert codes(report) == {"retention"}


def test_a_segment_deleted_without_a_tombstone(ledger: Path) -> None:
    (segment,) = AuditLog.open(ledger, read_only=True).segments()
    with opened(ledger) as connection:
        rows = connection.execute(
            "SELECT record FROM records WHERE seq <= ? ORDER BY seq",
            (segment.last_seq,),
        ).fetchall()
        leaves = b"".join(leaf_hash(data) for (data,) in rows)
        connection.execute(
            "INSERT INTO burials VALUES (1, ?, ?)", (segment.last_seq, leaves)
        )
        connection.execute("DELETE FROM records WHERE seq <= ?", (segment.last_seq,))
    assert "burial" in codes(check(ledger))
    assert standalone(ledger) == 1


def test_the_wrong_key(ledger: Path, tmp_path: Path) -> None:
    stranger = SigningKey.generate()
    with pytest.raises(AuditKeyError, match="the key given is"):
        AuditLog.open(ledger, key=stranger)
    assert codes(verify(ledger, key=stranger.verifier)) == {"key"}


def test_a_stored_checkpoint_that_is_damaged(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute("UPDATE checkpoints SET note = 'x' WHERE size = 1")
    assert "checkpoint" in codes(check(ledger))
    assert standalone(ledger) == 1


def test_a_byte_changed_anywhere_in_a_record(ledger: Path) -> None:
    """Flip one byte of every 97th place of all records' bytes."""
    data = ledger.read_bytes()
    with closing(sqlite3.connect(ledger)) as connection:
        records = [row[0] for row in connection.execute("SELECT record FROM records")]
    missed = []
    for record in records[:: max(1, len(records) // 5)]:
        at = data.find(record)
        if at < 0:
            continue
        for place in range(at, at + len(record), 97):
            bent = bytearray(data)
            bent[place] ^= 1
            ledger.write_bytes(bent)
            if check(ledger).ok:
                missed.append(place)
    assert missed == []


def test_the_verifier_runs_alone(ledger: Path, tmp_path: Path) -> None:
    """Copy it out of the package, and run it where nothing is installed."""
    script = tmp_path / "verifier.py"
    script.write_bytes(Path(standalone_verifier.__file__).read_bytes())
    program = [sys.executable, "-I", "-S", str(script), "ledger", str(ledger)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "VALID" in done.stdout
    assert "not proven" in done.stdout
    rewrite(ledger, 9, set_to("tenant", value="other"))
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 1


@pytest.mark.parametrize("what", EDITS)
def test_no_command_proves_an_edited_record(
    ledger: Path, tmp_path: Path, what: str
) -> None:
    kind, change = EDITS[what]
    seq = seq_of(ledger, kind, 0 if kind == "reviewed" else 2)
    rewrite(ledger, seq, change)
    with pytest.raises(AuditIntegrityError, match="is not what was signed"):
        prove(ledger, seq)
    log = AuditLog.open(ledger, read_only=True)
    with pytest.raises(AuditIntegrityError, match="is not what was signed"):
        export(log, tmp_path / "e.zip", "evidence", record=False)
    assert not (tmp_path / "e.zip").exists()


def test_no_command_proves_a_record_that_is_gone(ledger: Path) -> None:
    with opened(ledger) as connection:
        connection.execute("DELETE FROM records WHERE seq = 9")
    for seq in (8, 9):
        with pytest.raises(AuditIntegrityError, match="missing"):
            prove(ledger, seq)


def test_no_command_trusts_a_checkpoint_that_another_key_signed(ledger: Path) -> None:
    with opened(ledger) as connection:
        size, note = connection.execute(
            "SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1"
        ).fetchone()
        signed = Checkpoint.parse(note)
        own = SigningKey.generate(signed.origin)
        forged = sign_checkpoint(replace(signed, signatures=()), own)
        connection.execute(
            "UPDATE checkpoints SET note = ? WHERE size = ?", (str(forged), size)
        )
    with pytest.raises(AuditIntegrityError, match="no key that the ledger names"):
        prove(ledger, 9)
