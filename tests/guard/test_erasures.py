"""What the ledger says was erased leaves a client's memory too."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import pytest

from sarguard.audit.log import AuditLog
from sarguard.audit.operations.erasure import erase
from sarguard.audit.privacy.content import Privacy
from sarguard.client import SafeAudioLLM
from sarguard.errors import AudioDecodeError
from sarguard.guard.recorder import KEPT_VERDICT_RULE
from sarguard.serving.backend import GenerationJob
from sarguard.serving.request import RequestContext
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Turn
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


def test_erasures_from_before_a_client_was_opened_are_not_held_against_it(
    opened: tuple[SafeAudioLLM, FakeBackend],
    ledger: Path,
    tiny_bundle: SteeringBundle,
) -> None:
    client, _ = opened
    erase_by_another(ledger, tenant="ward", session="call-1")
    client.close()
    later: OpenFake
    with opening(tiny_bundle, REFUSES) as later:
        again, backend = later(audit=ledger)
        # Asked twice, the second time its verdict was kept.
        for _ in range(2):
            ask(again, "ward", "call-1", outcome=Outcome.REFUSED)
        assert len(backend.asked) == 1


def while_answering(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, what: Callable[[], None]
) -> None:
    """Do something once, while the backend answers the next request."""
    answer = backend.generate

    def generate(jobs: Sequence[GenerationJob]) -> None:
        monkeypatch.setattr(backend, "generate", answer)
        what()
        answer(jobs)

    monkeypatch.setattr(backend, "generate", generate)


@pytest.mark.parametrize("other_asks", [False, True])
def test_what_is_erased_while_it_is_answered_is_not_kept(
    opened: tuple[SafeAudioLLM, FakeBackend],
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    other_asks: bool,
) -> None:
    client, backend = opened

    def erased() -> None:
        erase_by_another(ledger, tenant="ward", session="call-5")
        if other_asks:
            # Whose turn to heed it comes while the first has not ended.
            client._guard._erasures.heed()  # type: ignore[attr-defined]

    while_answering(backend, monkeypatch, erased)
    ask(client, "ward", "call-5", outcome=Outcome.REFUSED)
    assert ("ward", "call-5") in backend.forgotten
    asked = len(backend.asked)
    ask(client, "ward", "call-5", outcome=Outcome.REFUSED)
    assert len(backend.asked) == asked + 1


def test_no_request_goes_on_while_another_forgets(
    opened: tuple[SafeAudioLLM, FakeBackend],
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, backend = opened
    erase_by_another(ledger, tenant="ward", session="call-1")
    forgetting, go_on = threading.Event(), threading.Event()
    forget = backend.forget

    def slow(tenant: str | None, session: str) -> None:
        forgetting.set()
        assert go_on.wait(30)
        forget(tenant, session)

    monkeypatch.setattr(backend, "forget", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, client, "desk", "call-9", outcome=Outcome.REFUSED)
        assert forgetting.wait(30)
        second = pool.submit(ask, client, "ward", "call-1", outcome=Outcome.REFUSED)
        with pytest.raises(FutureTimeoutError):
            second.result(timeout=0.3)
        go_on.set()
        first.result(timeout=30)
        # It was asked anew: the verdict of before was not used.
        assert second.result(timeout=30) is None


def test_an_erasure_reaches_every_session_that_a_verdict_is_kept_of(
    opened: tuple[SafeAudioLLM, FakeBackend], ledger: Path
) -> None:
    client, backend = opened
    verdicts = client._guard._verdicts  # type: ignore[attr-defined]
    for n in range(verdicts._max_sessions - 10):
        context = RequestContext(tenant="ward", session=f"many-{n}")
        verdicts.keep(context, [Turn(role="user", text="Asked.")], Outcome.REFUSED)
    erase_by_another(ledger, tenant="ward", session="call-1")
    asked = len(backend.asked)
    ask(client, "ward", "call-1", outcome=Outcome.REFUSED)
    assert len(backend.asked) == asked + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it needs fork")
def test_a_forked_child_waits_for_no_lock_of_its_parent(
    opened: tuple[SafeAudioLLM, FakeBackend],
) -> None:
    client, _ = opened
    erasures = client._guard._erasures  # type: ignore[attr-defined]
    with erasures._lock:
        child = os.fork()
        if child == 0:
            free = erasures._lock.acquire(blocking=False)
            os._exit(0 if free else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_request_that_fails_early_forgets_nothing(
    opened: tuple[SafeAudioLLM, FakeBackend], ledger: Path
) -> None:
    client, backend = opened
    erase_by_another(ledger, tenant="ward", session=None)
    ask(client, "ward", "call-1", outcome=Outcome.REFUSED)
    asked = len(backend.asked)
    with pytest.raises(AudioDecodeError):
        client.generate(
            audio=b"not a sound", text="Answer.", tenant="ward", session="call-1"
        )
    assert KEPT_VERDICT_RULE in (
        ask(client, "ward", "call-1", outcome=Outcome.REFUSED) or ""
    )
    assert len(backend.asked) == asked


def test_an_erasure_that_cannot_be_read_is_heeded_later(
    opened: tuple[SafeAudioLLM, FakeBackend],
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, backend = opened
    for tenant, session in (("ward", "call-1"), ("desk", None)):
        erase_by_another(ledger, tenant=tenant, session=session)
    keyring = client._guard._erasures._recorder.privacy.keyring  # type: ignore[attr-defined]

    def busy(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(type(keyring), "all_pseudonyms", busy)
        # In doubt a session is forgotten: the model is asked once more.
        ask(client, "ward", "call-2", outcome=Outcome.REFUSED)
    asked = len(backend.asked)
    for tenant, session in (("ward", "call-1"), ("desk", "call-1")):
        ask(client, tenant, session, outcome=Outcome.REFUSED)
    assert len(backend.asked) == asked + 2
