"""What the ledger says was erased leaves a client's memory too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sarguard.audit.log import AuditLog
from sarguard.audit.operations.erasure import erase
from sarguard.audit.privacy.content import Privacy
from sarguard.client import SafeAudioLLM
from sarguard.guard.recorder import KEPT_VERDICT_RULE
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome
from tests import tiny
from tests.serving.fakes import FakeBackend, OpenFake, opening

REFUSES = "I'm sorry, I can't help."
ASKED: dict[str, Any] = {"audio": (tiny.clip(0.5), tiny.RATE), "text": "Answer."}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def opened(
    tiny_bundle: SteeringBundle, ledger: Path
) -> Iterator[tuple[SafeAudioLLM, FakeBackend]]:
    """Yield a client that refused the same to two tenants' sessions."""
    opening_one: OpenFake
    with opening(tiny_bundle, REFUSES) as opening_one:
        client, backend = opening_one(audit=ledger)
        for tenant in ("ward", "desk"):
            for session in ("call-1", "call-2"):
                ask(client, tenant, session, outcome=Outcome.REFUSED)
        yield client, backend


def ask(
    client: SafeAudioLLM, tenant: str, session: str, *, outcome: Outcome
) -> str | None:
    """Ask; return the rule that decided."""
    reply = client.generate(**ASKED, tenant=tenant, session=session)
    assert reply.outcome is outcome
    return None if reply.guard.fault is None else str(reply.guard.fault)


def erase_by_another(ledger: Path, *, tenant: str, session: str | None) -> None:
    """Erase as another process does, with a ledger of its own."""
    privacy = Privacy.open(ledger)
    mark = None if session is None else privacy.pseudonyms(tenant).session(session)
    with AuditLog.open(ledger) as log:
        erase(
            log,
            privacy.sealer,
            tenant=tenant,
            session=mark,
            whole_tenant=session is None,
        )


def test_an_erased_session_is_forgotten_and_no_other(
    opened: tuple[SafeAudioLLM, FakeBackend], ledger: Path
) -> None:
    client, backend = opened
    erase_by_another(ledger, tenant="ward", session="call-1")
    assert backend.forgotten == []
    asked = len(backend.asked)
    # Any request with a session is late enough.
    ask(client, "desk", "call-9", outcome=Outcome.REFUSED)
    assert backend.forgotten == [("ward", "call-1")]
    assert len(backend.asked) == asked + 1
    for tenant, session in (("ward", "call-2"), ("desk", "call-1")):
        assert ask(client, tenant, session, outcome=Outcome.REFUSED)
    # Those verdicts were kept; the erased session's is not, and the model is asked.
    assert len(backend.asked) == asked + 1
    ask(client, "ward", "call-1", outcome=Outcome.REFUSED)
    assert len(backend.asked) == asked + 2
    assert backend.forgotten == [("ward", "call-1")]


def test_an_erased_tenant_s_sessions_are_forgotten(
    opened: tuple[SafeAudioLLM, FakeBackend], ledger: Path
) -> None:
    client, backend = opened
    erase_by_another(ledger, tenant="ward", session=None)
    asked = len(backend.asked)
    ask(client, "ward", "call-1", outcome=Outcome.REFUSED)
    assert sorted(backend.forgotten) == [("ward", "call-1"), ("ward", "call-2")]
    assert len(backend.asked) == asked + 1
    assert KEPT_VERDICT_RULE in (
        ask(client, "desk", "call-1", outcome=Outcome.REFUSED) or ""
    )


def test_a_session_may_begin_again_after_its_erasure(
    opened: tuple[SafeAudioLLM, FakeBackend], ledger: Path
) -> None:
    client, backend = opened
    for times in (1, 2):
        erase_by_another(ledger, tenant="desk", session="call-2")
        ask(client, "desk", "call-2", outcome=Outcome.REFUSED)
        assert backend.forgotten == [("desk", "call-2")] * times


def test_a_ledger_that_cannot_be_read_stops_nothing_by_itself(
    opened: tuple[SafeAudioLLM, FakeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sarguard.errors import AuditNotFoundError

    def lost(*_: object, **__: object) -> None:
        raise AuditNotFoundError("no ledger")

    client, _ = opened
    assert client.audit is not None
    monkeypatch.setattr(client.audit, "search", lost)
    ask(client, "ward", "call-7", outcome=Outcome.REFUSED)
