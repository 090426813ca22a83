"""Tiers of a gate that is not trusted: one strength for all, and no score."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import torch

from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome
from tests.guard.conftest import ALWAYS, CLIP, FLOORS, Open, policy, records

ASKED: dict[str, Any] = {"audio": CLIP, "text": "Hi.", "max_new_tokens": 4}


@pytest.fixture
def calm_bundle(even_bundle: SteeringBundle) -> SteeringBundle:
    """Return the bundle that `opened` takes in this module."""
    return even_bundle


def bare_until_tomorrow() -> dict[str, str]:
    until = datetime.now(UTC) + timedelta(days=1)
    return {
        "reply": "bare",
        "bare_reason": "compared with last month's answers",
        "bare_until": until.isoformat(),
    }


def poison(loaded: LoadedModel) -> None:
    """Spoil every state from the first layer on."""
    loaded.decoder.layers[0].register_forward_hook(
        lambda *run: torch.full_like(run[2], torch.nan)
    )


def test_the_gate_is_not_asked_and_nothing_is_run_twice(
    opened: Open, loaded: LoadedModel
) -> None:
    client = opened()
    passes: list[object] = []
    loaded.decoder.owner.register_forward_pre_hook(lambda *_: passes.append(1))
    reply = client.generate(**ASKED)
    assert len(passes) == reply.usage.output_tokens == 4
    found = reply.guard
    assert (found.mode, found.tier, found.alpha) == (
        *("faithful", "balanced"),
        FLOORS["balanced"],
    )
    assert (found.score, found.divergence) == (None, None)
    (ended,) = records(client, "request_finished")
    assert (ended.scores, ended.dose.alpha) == ((), FLOORS["balanced"])
    assert ended.receipt.attested


def test_shadow_mode_compares_all_the_same(opened: Open) -> None:
    client = opened(policy=policy(mode="shadow", steering={"alpha": 5.0}))
    reply = client.generate(**ASKED)
    assert (reply.guard.mode, reply.guard.score) == ("faithful", None)
    assert 0 < reply.guard.divergence <= 1
    (ended,) = records(client, "request_finished")
    assert ended.dose.divergence == round(reply.guard.divergence, 6)
    client.change_policy(policy(steering={"alpha": 5.0}))
    assert client.generate(**ASKED).guard.divergence is None


def test_a_bare_answers_record_says_what_differs(opened: Open) -> None:
    client = opened(
        policy=policy(
            mode="shadow", shadow=bare_until_tomorrow(), steering={"alpha": 5.0}
        )
    )
    reply = client.generate(**ASKED)
    assert (reply.guard.mode, reply.guard.steered_positions) == ("bare", 0)
    (ended,) = records(client, "request_finished")
    assert (ended.dose.mode, ended.dose.alpha) == ("bare", 5.0)
    assert ended.dose.divergence == round(reply.guard.divergence, 6)


def test_a_threshold_of_the_policys_own_asks_the_gate(opened: Open) -> None:
    client = opened(policy=policy(steering={"block_threshold": ALWAYS}))
    reply = client.generate(**ASKED)
    assert (reply.outcome, reply.guard.mode) == (Outcome.BLOCKED, "conditioned")
    (ended,) = records(client, "request_finished")
    assert ended.scores[0].threshold == ALWAYS


@pytest.mark.parametrize("shadow", [None, "steered", "bare"])
def test_states_that_are_no_numbers_are_no_answer(
    opened: Open, loaded: LoadedModel, shadow: str | None
) -> None:
    sections: dict[str, Any] = {} if shadow is None else {"mode": "shadow"}
    if shadow == "bare":
        sections["shadow"] = bare_until_tomorrow()
    client = opened(policy=policy(**sections))
    poison(loaded)
    reply = client.generate(**ASKED)
    assert (reply.outcome, reply.guard.steered_positions) == (Outcome.ERROR_CLOSED, 0)
    assert "NonFiniteActivationError" in str(reply.guard.fault)
    (ended,) = records(client, "request_finished")
    assert ended.fault.type == "NonFiniteActivationError"
