"""The ledger: an append-only, signed record of every request and of its guard.

The names below are imported when they are first used, so that importing this package
loads neither a database nor a schema.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sarguard.audit.exports.writing import ExportResult, export
    from sarguard.audit.log import AuditLog
    from sarguard.audit.privacy.content import Privacy
    from sarguard.audit.proof.inclusion import InclusionProof, prove
    from sarguard.audit.proof.report import VerificationReport
    from sarguard.audit.proof.signed_notes import Checkpoint, VerifierKey
    from sarguard.audit.proof.signing_keys import Signer, SigningKey
    from sarguard.audit.proof.verify import verify
    from sarguard.audit.records.fields import (
        AppliedDose,
        AudioDescription,
        CheckVerdict,
        Content,
        Durations,
        FallbackRef,
        FaultRef,
        InputDescription,
        ModelRef,
        OutputDescription,
        PolicyRef,
        Score,
        SteeringReceipt,
        SteeringRef,
        TokenCounts,
    )
    from sarguard.audit.records.requests import RequestFinished, RequestStarted
    from sarguard.audit.storage.appender import Pace
    from sarguard.audit.storage.query import Entry, Query
    from sarguard.audit.storage.recorder import OnFailure, RecordReceipt

_NAMES = {
    "exports.writing": ("ExportResult", "export"),
    "log": ("AuditLog",),
    "privacy.content": ("Privacy",),
    "proof.inclusion": ("InclusionProof", "prove"),
    "proof.report": ("VerificationReport",),
    "proof.signed_notes": ("Checkpoint", "VerifierKey"),
    "proof.signing_keys": ("Signer", "SigningKey"),
    "proof.verify": ("verify",),
    "records.fields": (
        *("AppliedDose", "AudioDescription", "CheckVerdict", "Content", "Durations"),
        *("FallbackRef", "FaultRef", "InputDescription", "ModelRef"),
        *("OutputDescription", "PolicyRef", "Score", "SteeringReceipt"),
        *("SteeringRef", "TokenCounts"),
    ),
    "records.requests": ("RequestFinished", "RequestStarted"),
    "storage.appender": ("Pace",),
    "storage.query": ("Entry", "Query"),
    "storage.recorder": ("OnFailure", "RecordReceipt"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AppliedDose",
    "AudioDescription",
    "AuditLog",
    "CheckVerdict",
    "Checkpoint",
    "Content",
    "Durations",
    "Entry",
    "ExportResult",
    "FallbackRef",
    "FaultRef",
    "InclusionProof",
    "InputDescription",
    "ModelRef",
    "OnFailure",
    "OutputDescription",
    "Pace",
    "PolicyRef",
    "Privacy",
    "Query",
    "RecordReceipt",
    "RequestFinished",
    "RequestStarted",
    "Score",
    "Signer",
    "SigningKey",
    "SteeringReceipt",
    "SteeringRef",
    "TokenCounts",
    "VerificationReport",
    "VerifierKey",
    "export",
    "prove",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
