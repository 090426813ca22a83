"""`sarguard ask` with a policy, a ledger and a tier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sarguard.audit.log import AuditLog
from sarguard.cli.main import main
from sarguard.client import SafeAudioLLM
from sarguard.errors import SteeringNotAppliedError
from sarguard.serving import batch_engine
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome
from tests import tiny
from tests.guard.conftest import records_of
from tests.guard.test_faults import FAULTS


@pytest.fixture
def options(tmp_path: Path, calm_bundle: SteeringBundle) -> list[str]:
    tiny.shared().model.save_pretrained(tmp_path / "model")
    tiny.shared().processor.save_pretrained(tmp_path / "model")
    bundle = str(calm_bundle.save(tmp_path / "bundle"))
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "clip.wav", tiny.clip(0.5), tiny.RATE)
    (tmp_path / "clinic.yaml").write_text("id: clinic\nextends: balanced\n")
    return [
        *("ask", str(tmp_path / "clip.wav"), "--model", str(tmp_path / "model")),
        *("--bundle", bundle, "--max-new-tokens", "3", "--json"),
        *("--policy", str(tmp_path / "clinic.yaml")),
        *("--audit", str(tmp_path / "audit.db")),
    ]


def test_a_policy_a_tier_and_a_ledger(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, "--tier", "strict"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert (reply["outcome"], reply["guard"]["tier"]) == ("answered", "strict")
    assert main([*options, "--tier", "permissive"]) == 2
    assert "floor" in capsys.readouterr().err
    log = AuditLog.open(tmp_path / "audit.db", read_only=True)
    (begun,) = records_of(log, "request_started")
    assert (begun.entry, begun.audit_id) == ("cli", reply["audit_id"])
    assert begun.policy.id == "clinic"


def test_a_fault_leaves_a_record(
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SteeringNotAppliedError("a layer was not steered")

    monkeypatch.setattr(batch_engine, "decode_rows", fail)
    assert main(options) == 1
    assert json.loads(capsys.readouterr().out)["outcome"] == "error_closed"
    log = AuditLog.open(tmp_path / "audit.db", read_only=True)
    (ended,) = records_of(log, "request_finished")
    assert ended.outcome is Outcome.ERROR_CLOSED
    assert ended.receipt.fault == "steering_not_applied"
    assert [e.request for e in records_of(log, "integrity_failed")] == [ended.audit_id]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_costs_the_answer_and_leaves_one_record(
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[SafeAudioLLM, pytest.MonkeyPatch], None],
) -> None:
    ask = SafeAudioLLM.stream

    def faulty(client: SafeAudioLLM, *asked: Any, **more: Any) -> Any:  # noqa: ANN401
        fault(client, monkeypatch)
        return ask(client, *asked, **more)

    monkeypatch.setattr(SafeAudioLLM, "stream", faulty)
    assert main(options) == 1
    reply = json.loads(capsys.readouterr().out)
    monkeypatch.undo()
    assert reply["outcome"] == "error_closed"
    log = AuditLog.open(tmp_path / "audit.db", read_only=True)
    (begun,) = records_of(log, "request_started")
    (ended,) = records_of(log, "request_finished")
    assert begun.audit_id == ended.audit_id == reply["audit_id"]
    assert ended.outcome is Outcome.ERROR_CLOSED
    assert ended.fault.type == (FAULTS[fault] or ended.fault.type)
    assert ended.receipt is None or not ended.receipt.attested
