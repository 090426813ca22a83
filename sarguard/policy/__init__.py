"""Policies: what has to hold for every answer, in a file that people can read."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sarguard.policy.messages import Reason
    from sarguard.policy.model import Policy, open_policy
    from sarguard.policy.overrides import Override, PolicyInForce
    from sarguard.policy.tiers import Tier

__all__ = [
    "Override",
    "Policy",
    "PolicyInForce",
    "Reason",
    "Tier",
    "open_policy",
]

_MODULES = {
    "Override": "overrides",
    "Policy": "model",
    "PolicyInForce": "overrides",
    "Reason": "messages",
    "Tier": "tiers",
    "open_policy": "model",
}


def __getattr__(name: str) -> object:
    """Import a public name at first use: pydantic builds the models for a while."""
    if name not in _MODULES:
        raise AttributeError(f"module 'sarguard.policy' has no attribute {name!r}")
    module = importlib.import_module(f"sarguard.policy.{_MODULES[name]}")
    return getattr(module, name)
