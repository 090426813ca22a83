from __future__ import annotations

from pathlib import Path

import pytest

from sarguard.audit.operations.erasure import erase
from sarguard.audit.operations.legal_holds import place_hold
from sarguard.audit.operations.subject_lookup import lookup
from sarguard.audit.proof.verify import verify
from sarguard.errors import AuditNotFoundError, AuditRecordError, AuditWriteError
from tests.audit.filled import RATE, ask, clip, ledger


def test_a_session_is_erased_and_the_chain_stays_valid(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path, content="encrypted")
    with log:
        gone = ask(log, privacy, session="call-1")
        stays = ask(log, privacy, session="call-2")
        before = [entry.data for entry in log.request(gone)]
        session = privacy.pseudonyms().session("call-1")
        done = erase(log, privacy.sealer, session=session, reason="asked", actor="dpo")
        assert (len(done.keys), done.contents) == (1, 3)
        assert [entry.data for entry in log.request(gone)] == before
        for entry in log.request(gone):
            for content in entry.record.content:  # type: ignore[attr-defined]
                with pytest.raises(AuditNotFoundError):
                    privacy.sealer.unseal(content)
        (first, _) = log.request(stays)
        assert privacy.sealer.unseal(first.record.content[0])  # type: ignore[attr-defined]
        kinds = [entry.record.kind for entry in log.entries()][-2:]
        assert kinds == ["erasure_requested", "erased"]
    assert verify(log.path).ok


def test_a_tenant_s_pseudonyms_can_no_longer_be_made(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        ask(log, privacy, seed=5, tenant="acme")
        ask(log, privacy, seed=5, tenant="other")
        make = lambda pseudonyms: pseudonyms.audio(clip(5), RATE)  # noqa: E731
        assert len(lookup(log, privacy.keyring, make, tenant="acme").entries) == 1
        erase(log, privacy.sealer, tenant="acme", whole_tenant=True, actor="dpo")
        with pytest.raises(AuditNotFoundError, match="destroyed"):
            lookup(log, privacy.keyring, make, tenant="acme")
        every = lookup(log, privacy.keyring, make, every_tenant=True)
        assert [e.record.tenant for e in every.entries] == ["other"]  # type: ignore[attr-defined]


def test_a_hold_stands_against_erasure(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path, content="encrypted")
    with log:
        ask(log, privacy, tenant="acme")
        place_hold(log, reason="case 7", actor="counsel", tenant="acme")
        with pytest.raises(AuditRecordError, match="case 7"):
            erase(log, privacy.sealer, tenant="acme", whole_tenant=True)
        ask(log, privacy, tenant="b")
        assert erase(log, privacy.sealer, tenant="b", whole_tenant=True).keys


@pytest.mark.parametrize(
    ("first", "last", "held"),
    [(1, 2, "call-1"), (4, None, "call-2"), (None, 3, "call-1"), (5, 5, "call-2")],
)
def test_a_hold_covers_the_records_that_it_names_and_nothing_else(
    tmp_path: Path, first: int | None, last: int | None, held: str
) -> None:
    log, privacy = ledger(tmp_path, content="encrypted")
    with log:
        ask(log, privacy, session="call-1")  # Records 2 and 3.
        ask(log, privacy, seed=1, session="call-2")  # Records 4 and 5.
        place_hold(log, reason="case 7", actor="ann", first_seq=first, last_seq=last)
        named = {n: privacy.pseudonyms().session(n) for n in ("call-1", "call-2")}
        with pytest.raises(AuditRecordError, match="case 7"):
            erase(log, privacy.sealer, session=named.pop(held))
        with pytest.raises(AuditRecordError, match="case 7"):
            erase(log, privacy.sealer, whole_tenant=True)
        (free,) = named.values()
        assert erase(log, privacy.sealer, session=free).contents == 3


def test_a_hold_on_an_empty_range_is_refused(tmp_path: Path) -> None:
    log, _ = ledger(tmp_path)
    with log:
        with pytest.raises(AuditRecordError, match="records 9 to 1 covers nothing"):
            place_hold(log, reason="bad", actor="ann", first_seq=9, last_seq=1)
        assert log.reader.size() == 1


def test_what_cannot_be_recorded_is_not_erased(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path, content="encrypted")
    ask(log, privacy)
    log.close()
    with pytest.raises(AuditWriteError):
        erase(log, privacy.sealer, whole_tenant=True)
    assert privacy.keyring.secrets()


def test_what_is_not_there_is_not_erased_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    log, privacy = ledger(tmp_path, content="encrypted")
    with log:
        ask(log, privacy, tenant="acme", session="call-1")
        size = log.reader.size()
        mark = privacy.pseudonyms("acme").session("call-2")
        for subject in (
            {"tenant": "acmee", "whole_tenant": True},
            {"tenant": "acme", "session": mark},
            {"session": privacy.pseudonyms("acme").session("call-1")},
        ):
            with pytest.raises(AuditNotFoundError, match="its tenants are acme"):
                erase(log, privacy.sealer, **subject)  # type: ignore[arg-type]
        assert log.reader.size() == size


def test_an_erasure_says_what_stays_readable(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path, content="redacted")
    with log:
        ask(log, privacy, tenant="desk", session="call-3")
        mark = privacy.pseudonyms("desk").session("call-3")
        done = erase(log, privacy.sealer, tenant="desk", session=mark)
        assert done.readable >= 1
        # Asked again it says the same.
        again = erase(log, privacy.sealer, tenant="desk", session=mark)
        assert again.readable == done.readable


def test_one_subject_has_to_be_named(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log, pytest.raises(AuditRecordError, match="name a session"):
        erase(log, privacy.sealer, tenant="acme")
