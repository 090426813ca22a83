"""Make small ledgers with requests in them, as a guarded model would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sarguard.audit import AuditLog
from sarguard.audit.privacy.content import ContentMode, Privacy
from sarguard.audit.records.fields import (
    AppliedDose,
    Durations,
    ModelRef,
    PolicyRef,
    SteeringReceipt,
    TokenCounts,
)

RATE = 16_000
POLICY = PolicyRef(
    id="clinic", version="3", digest="sha256:" + "ab" * 32, tier="strict"
)
MODEL = ModelRef(id="reference", revision="r1", dtype="float32", device="cpu")
SECRET_WORDS = "My name is Zyxquorble and I live at 17 Vorplick Crescent"
SECRET_ANSWER = "Dear Zyxquorble, the quintessential flimbergast is ready"


def clip(seed: int = 0, seconds: float = 0.5) -> NDArray[np.float32]:
    """Return a clip of noise that nothing else makes."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(-0.5, 0.5, int(RATE * seconds))).astype(np.float32)


def ask(
    log: AuditLog,
    privacy: Privacy,
    *,
    seed: int = 0,
    outcome: str = "answered",
    tenant: str | None = None,
    session: str = "call-1",
    text: str = SECRET_WORDS,
    answer: str = SECRET_ANSWER,
    **more: object,
) -> str:
    """Record a request from its start to its end; return its audit id."""
    pseudonyms = privacy.pseudonyms(tenant)
    named = pseudonyms.session(session)
    begun = log.started(
        entry="generate",
        policy=POLICY,
        model=MODEL,
        tenant=tenant,
        session=named,
        mark_key=pseudonyms.key_id,
        input=privacy.describe_input(
            clips=[(clip(seed), RATE)], text=text, tenant=tenant
        ),
        content=(
            *privacy.keep_text("input_text", text, tenant=tenant, session=named),
            *privacy.keep_audio(
                "input_audio", (clip(seed), RATE), tenant=tenant, session=named
            ),
        ),
    )
    assert begun.audit_id is not None
    log.finished(
        begun.audit_id,
        outcome=outcome,
        dose=AppliedDose(mode="faithful", alpha=0.1, tier="strict"),
        receipt=SteeringReceipt(
            steered_positions=8,
            expected_positions=8,
            layers=24,
            bundle_digest="cd" * 32,
            attested=True,
        ),
        output=privacy.describe_output(answer, tenant=tenant, finish_reason="stop"),
        usage=TokenCounts(prompt_tokens=40, audio_tokens=25, output_tokens=8),
        timings=Durations(total_s=1.25, first_token_s=0.5),
        content=privacy.keep_text("output_text", answer, tenant=tenant, session=named),
        **more,
    )
    return begun.audit_id


def ledger(folder: Path, *, content: ContentMode = "none") -> tuple[AuditLog, Privacy]:
    """Return a new ledger and the privacy that stands beside it."""
    path = folder / "audit.db"
    return AuditLog.open(path), Privacy.open(path, content=content)
