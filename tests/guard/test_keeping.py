"""What a policy says of content and of a ledger that fails, through a client."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sarguard.audit.log import AuditLog
from sarguard.audit.operations.erasure import erase
from sarguard.audit.privacy.content import Privacy
from sarguard.audit.proof.verify import verify
from sarguard.errors import AuditNotFoundError, ConfigurationError
from sarguard.types import Outcome
from tests import tiny
from tests.guard.conftest import CLIP, Open, policy, records

WORDS = "Write to zyx@example.org about the quokka."
ASKED: dict[str, Any] = {
    "audio": CLIP,
    "text": WORDS,
    "max_new_tokens": 4,
    "session": "call-1",
    "tenant": "ward",
}


def kept(client: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the content that the newest request's records hold, by its part."""
    pair = (
        records(client, kind)[-1] for kind in ("request_started", "request_finished")
    )
    return {content.part: content for record in pair for content in record.content}


class TestContent:
    def test_none_keeps_nothing(self, opened: Open) -> None:
        client = opened(policy=policy(audit={"content": "none"}))
        client.generate(**ASKED)
        assert kept(client) == {}

    def test_redacted_keeps_words_without_what_is_personal(
        self, opened: Open, ledger: Path
    ) -> None:
        client = opened(policy=policy(audit={"content": "redacted"}))
        reply = client.generate(**ASKED)
        found = kept(client)
        assert set(found) == (
            {"input_text", "output_text"} if reply.text else {"input_text"}
        )
        assert "quokka" in found["input_text"].text
        assert found["input_text"].redactions == 1
        client.close()
        assert b"zyx@example.org" not in ledger.read_bytes()
        assert not Path(f"{ledger}.sealed").exists()

    def test_encrypted_keeps_all_until_it_is_erased(
        self, opened: Open, ledger: Path
    ) -> None:
        client = opened(policy=policy(audit={"content": "encrypted"}))
        client.generate(**ASKED)
        found = kept(client)
        assert {"input_text", "input_audio"} <= set(found)
        assert {content.mode for content in found.values()} == {"encrypted"}
        sealer = Privacy.open(ledger).sealer
        assert sealer.unseal(found["input_text"]).decode() == WORDS
        samples, rate = soundfile.read(io.BytesIO(sealer.unseal(found["input_audio"])))
        assert rate == tiny.RATE
        np.testing.assert_allclose(samples, CLIP[0], atol=1e-4)
        for name in ("", "-wal", ".sealed"):
            assert b"quokka" not in Path(f"{ledger}{name}").read_bytes()
        assert client.audit is not None
        (begun,) = records(client, "request_started")
        erase(client.audit, sealer, tenant="ward", session=begun.session, actor="ann")
        for content in found.values():
            with pytest.raises(AuditNotFoundError, match="erased"):
                sealer.unseal(content)
        client.close()
        assert verify(ledger).ok

    def test_the_policy_in_force_decides_for_each_request(self, opened: Open) -> None:
        client = opened(policy=policy(audit={"content": "encrypted"}))
        client.generate(**ASKED)
        assert kept(client)
        client.change_policy(policy(), actor="ops")
        client.generate(**ASKED)
        assert kept(client) == {}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the ledger's write lock, as a stuck process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.fixture
def handed(ledger: Path) -> Iterator[Any]:
    """Return a function that opens a ledger to hand in; it waits for no lock."""
    logs: list[AuditLog] = []

    def open_log(on_failure: Any, **more: Any) -> AuditLog:  # noqa: ANN401
        settings = {"lock_timeout": 0.02, **more}
        logs.append(AuditLog.open(ledger, on_failure=on_failure, **settings))
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


class TestALedgerThatCannotBeWritten:
    def test_block_answers_nobody(self, opened: Open, handed: Any) -> None:  # noqa: ANN401
        client = opened(audit=handed("block"))
        with locked(client.audit.path):  # type: ignore[union-attr]
            reply = client.generate(**ASKED)
        assert (reply.outcome, reply.usage.output_tokens) == (Outcome.ERROR_CLOSED, 0)
        assert client.generate(**ASKED).outcome is Outcome.ANSWERED
        assert len(records(client, "request_finished")) == 1

    def test_the_spool_holds_records_until_the_ledger_takes_them(
        self,
        opened: Open,
        handed: Any,  # noqa: ANN401
    ) -> None:
        log = handed("spool")
        client = opened(audit=log, policy=policy(audit={"on_write_failure": "spool"}))
        with locked(log.path):
            held = client.generate(**ASKED)
            assert held.outcome is Outcome.ANSWERED
            assert records(client, "request_started") == []
            assert WORDS not in Path(f"{log.path}.spool").read_text()
        after = client.generate(**ASKED)
        ended = records(client, "request_finished")
        assert [end.audit_id for end in ended] == [held.audit_id, after.audit_id]
        assert [end.spooled is not None for end in ended] == [True, False]
        (told,) = records(client, "log_recovered")
        assert (told.cause, told.count) == ("spool_drained", 2)
        client.close()
        log.close()
        report = verify(log.path)
        assert (report.ok, report.unfinished) == (True, 0), str(report)

    def test_a_full_spool_blocks(self, opened: Open, handed: Any) -> None:  # noqa: ANN401
        log = handed("spool", spool_limit=2)
        client = opened(audit=log, policy=policy(audit={"on_write_failure": "spool"}))
        with locked(log.path):
            outcomes = [client.generate(**ASKED).outcome for _ in range(2)]
        assert outcomes == [Outcome.ANSWERED, Outcome.ERROR_CLOSED]

    def test_degrade_is_loud(self, opened: Open, handed: Any) -> None:  # noqa: ANN401
        log = handed("degrade")
        client = opened(audit=log, policy=policy(audit={"on_write_failure": "degrade"}))
        with locked(log.path):
            reply = client.generate(**ASKED)
        assert reply.outcome is Outcome.ERROR_OPEN
        assert "unrecorded" in str(reply.guard.fault)
        client.generate(**ASKED)
        (told,) = records(client, "audit_degraded")
        assert (told.cause, told.unrecorded) == ("lock_timeout", 2)


class TestWhoDecides:
    def test_a_ledger_may_be_stricter_than_the_policy_never_laxer(
        self,
        opened: Open,
        handed: Any,  # noqa: ANN401
    ) -> None:
        log = handed("spool")
        assert log.on_failure == "spool"
        with pytest.raises(ConfigurationError, match="on_failure='spool'"):
            opened(audit=log)
        client = opened(audit=log, policy=policy(audit={"on_write_failure": "degrade"}))
        with pytest.raises(ConfigurationError, match="holds 'block'"):
            client.change_policy(policy())
        log.on_failure = "block"
        client.change_policy(policy())
        with pytest.raises(ConfigurationError, match="use block, spool, degrade"):
            log.on_failure = "hope"

    def test_a_clients_own_ledger_follows_its_policy(self, opened: Open) -> None:
        client = opened(policy=policy(audit={"on_write_failure": "spool"}))
        log = client.audit
        assert log is not None
        assert log.on_failure == "spool"
        client.change_policy(policy())
        assert log.on_failure == "block"
