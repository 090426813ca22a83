"""Clients of a tiny model that keep a ledger, and what the ledger says afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sarguard.audit.log import AuditLog
from sarguard.client import SafeAudioLLM
from sarguard.models.loading import LoadedModel
from sarguard.policy.model import Policy
from sarguard.steering.bundle import SteeringBundle, TierCard
from tests import tiny

Open = Callable[..., SafeAudioLLM]

CLIP = (tiny.clip(0.5), tiny.RATE)
FLOORS = {"permissive": 0.02, "balanced": 0.05, "strict": 0.2, "maximum": 0.5}
ALWAYS = -1000.0
"""A block threshold that every request exceeds."""


def policy(**sections: Any) -> Policy:  # noqa: ANN401
    """Return a policy named `clinic` that is balanced, and permissive at the least."""
    steering = {"floor": "permissive", **sections.pop("steering", {})}
    return Policy.build({"id": "clinic", "steering": steering, **sections})


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.build()


@pytest.fixture(scope="session")
def calm_bundle(tiny_bundle: SteeringBundle) -> SteeringBundle:
    """Return a bundle whose tiers differ in strength and block nothing.

    The states of a tiny random model say nothing of harm.
    """
    tiers = {
        name: TierCard(floor=floor, ceiling=2 * floor, low=0.0, high=50.0, block=1000.0)
        for name, floor in FLOORS.items()
    }
    return replace(
        tiny_bundle, card=tiny_bundle.card.model_copy(update={"tiers": tiers})
    )


@pytest.fixture(scope="session")
def even_bundle(tiny_bundle: SteeringBundle) -> SteeringBundle:
    """Return a bundle whose gate is not trusted: a tier is one strength for all."""
    tiers = {
        name: TierCard(floor=floor, ceiling=floor, low=-1.0, high=1.0, block=None)
        for name, floor in FLOORS.items()
    }
    return replace(
        tiny_bundle, card=tiny_bundle.card.model_copy(update={"tiers": tiers})
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def opened(
    loaded: LoadedModel, calm_bundle: SteeringBundle, ledger: Path
) -> Iterator[Open]:
    """Return a function that opens the one client of a test, with a ledger."""
    clients: list[SafeAudioLLM] = []

    def open_client(**options: Any) -> SafeAudioLLM:  # noqa: ANN401
        settings = {"policy": policy(), "audit": ledger, **options}
        clients.append(SafeAudioLLM.from_loaded(loaded, calm_bundle, **settings))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


def records(client: SafeAudioLLM, kind: str) -> list[Any]:
    """Return the ledger's records of a kind, oldest first."""
    log = client.audit
    assert log is not None
    return records_of(log, kind)


def records_of(log: AuditLog, kind: str) -> list[Any]:
    """Return a ledger's records of a kind, oldest first."""
    return [e.record for e in log.entries() if e.record.kind == kind]
