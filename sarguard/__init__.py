"""Guard large audio-language models with SARSteer, always on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sarguard.audio import AudioLimits
    from sarguard.audit.log import AuditLog
    from sarguard.client import SafeAudioLLM
    from sarguard.errors import SarguardError
    from sarguard.policy.model import Policy
    from sarguard.steering.bundle import SteeringBundle
    from sarguard.types import (
        Done,
        GuardReport,
        Outcome,
        Refusal,
        Reply,
        TextDelta,
        Timings,
        Turn,
        Usage,
    )

__version__ = "0.1.0"

__all__ = [
    "AudioLimits",
    "AuditLog",
    "Done",
    "GuardReport",
    "Outcome",
    "Policy",
    "Refusal",
    "Reply",
    "SafeAudioLLM",
    "SarguardError",
    "SteeringBundle",
    "TextDelta",
    "Timings",
    "Turn",
    "Usage",
]

_HOMES = {
    "AudioLimits": "sarguard.audio",
    "AuditLog": "sarguard.audit.log",
    "Done": "sarguard.types",
    "GuardReport": "sarguard.types",
    "Outcome": "sarguard.types",
    "Policy": "sarguard.policy.model",
    "Refusal": "sarguard.types",
    "Reply": "sarguard.types",
    "SafeAudioLLM": "sarguard.client",
    "SarguardError": "sarguard.errors",
    "SteeringBundle": "sarguard.steering.bundle",
    "TextDelta": "sarguard.types",
    "Timings": "sarguard.types",
    "Turn": "sarguard.types",
    "Usage": "sarguard.types",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used; torch loads no earlier."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sarguard' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
