from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sarguard.audit.operations.legal_holds import active_holds, lift_hold, place_hold
from sarguard.audit.operations.retention import RetentionRule, apply, plan
from sarguard.audit.proof.verify import verify
from sarguard.audit.records.ids import now_us
from sarguard.audit.storage.query import Query
from sarguard.errors import AuditRecordError, ConfigurationError
from tests.audit.filled import ask, ledger

DAY = 86_400_000_000


@contextmanager
def days_ago(days: int) -> Iterator[None]:
    """Let the ledger's clock show an earlier day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sarguard.audit.storage.appender.now_us", lambda: now_us() - days * DAY
        )
        yield


def later(days: int) -> int:
    return now_us() + days * DAY


def test_the_floor_is_half_a_year() -> None:
    with pytest.raises(ConfigurationError, match="the least is 183"):
        RetentionRule(days=182)
    assert RetentionRule(days=30, floor_days=30).days == 30


def test_old_segments_go_and_the_ledger_stays_valid(tmp_path: Path) -> None:
    with days_ago(184):
        log, privacy = ledger(tmp_path, content="encrypted")
        ask(log, privacy)
        log.seal_segment()
    with log:
        young = ask(log, privacy, session="call-2")
        rule = RetentionRule(days=183)
        assert [d.fate for d in plan(log, rule, now=later(-2))][:1] == ["keep"]
        # The second segment held nothing but the record that began it.
        assert [d.fate for d in plan(log, rule)] == ["delete", "delete"]
        assert apply(log, rule, sealer=privacy.sealer) == 4
        assert [d.fate for d in plan(log, rule)] == ["gone", "gone"]
        assert log.reader.count(Query(kind="retention_tombstone")) == 2
        kept = {c.content_id for e in log.request(young) for c in e.record.content}
        assert len(kept) == 3
        assert all(privacy.sealer.store.get(str(name)) for name in kept)
        assert _pieces(privacy) == 3
    report = verify(log.path)
    assert report.ok, str(report)
    assert report.buried == 4


def _pieces(privacy: object) -> int:
    store = privacy.sealer.store  # type: ignore[attr-defined]
    connection = store._file.connect()
    (count,) = connection.execute("SELECT count(*) FROM contents").fetchone()
    connection.close()
    return int(count)


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_hold_keeps_what_it_covers(tmp_path: Path, tenant: str | None) -> None:
    log, privacy = ledger(tmp_path)
    rule = RetentionRule()
    with log:
        ask(log, privacy, tenant="acme")
        log.seal_segment()
        ask(log, privacy, tenant="other")
        log.seal_segment()
        name = place_hold(log, reason="case 7", actor="counsel", tenant=tenant)
        fates = [d.fate for d in plan(log, rule, now=later(400))]
        assert fates == (["held", "held"] if tenant is None else ["held", "delete"])
        lift_hold(log, name, reason="closed", actor="counsel")
        fates = [d.fate for d in plan(log, rule, now=later(400))]
        assert fates == ["delete", "delete"]
        with pytest.raises(AuditRecordError, match="no hold"):
            lift_hold(log, name, reason="again", actor="counsel")


def test_a_policy_s_hold_keeps_everything(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        ask(log, privacy)
        log.seal_segment()
        rule = RetentionRule(legal_hold=True)
        assert apply(log, rule, now=later(4000)) == 0


def test_a_hold_outlives_the_segment_it_was_placed_in(tmp_path: Path) -> None:
    with days_ago(400):
        log, privacy = ledger(tmp_path)
        place_hold(log, reason="case 7", actor="counsel", tenant="acme")
        log.seal_segment()
        ask(log, privacy, tenant="acme")
        log.seal_segment()
    with log:
        assert apply(log, RetentionRule()) == 2
        (hold,) = active_holds(log)
        assert (hold.reason, hold.tenant) == ("case 7", "acme")
        fates = [d.fate for d in plan(log, RetentionRule())]
        assert fates[:2] == ["gone", "held"]
    report = verify(log.path)
    assert report.ok, str(report)
