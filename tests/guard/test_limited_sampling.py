"""What a policy says of sampling, through a client to reply, record and backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sarguard.client import SafeAudioLLM
from sarguard.policy.model import Policy
from sarguard.serving.backend import GenerationJob
from sarguard.steering.bundle import SteeringBundle, TierCard
from sarguard.steering.dose import Decision, DoseRule, DoseSpec
from sarguard.types import Outcome, Reply
from tests.serving.fakes import FakeBackend

SAYS = "It is noon in the town, and the market closes in an hour."
DEFAULT = Policy(id="any").steering.decision_tokens
Open = Callable[..., tuple[SafeAudioLLM, FakeBackend]]


def policy(**steering: Any) -> Policy:  # noqa: ANN401
    return Policy.build(
        {
            "id": "clinic",
            "steering": {"floor": "permissive", **steering},
            "audit": {"required": False},
        }
    )


@pytest.fixture
def opened(tiny_bundle: SteeringBundle) -> Iterator[Open]:
    clients: list[SafeAudioLLM] = []
    tier = TierCard(floor=0.1, ceiling=0.2, low=0.0, high=5.0, block=9.0)
    tiers = dict.fromkeys(("permissive", "balanced", "strict", "maximum"), tier)
    bundle = replace(
        tiny_bundle, card=tiny_bundle.card.model_copy(update={"tiers": tiers})
    )

    def open_client(**options: Any) -> tuple[SafeAudioLLM, FakeBackend]:  # noqa: ANN401
        backend = FakeBackend(
            SAYS,
            vectors_digest=bundle.card.vectors_digest,
            layers=bundle.card.layers,
            score=1.0,
        )
        clients.append(SafeAudioLLM(backend, bundle, **options))
        return clients[-1], backend

    yield open_client
    for client in clients:
        client.close()


def told(reply: Reply) -> tuple[float, int]:
    assert reply.outcome is Outcome.ANSWERED
    return reply.guard.temperature, reply.guard.greedy_tokens


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.1},
        {"tier": "strict"},
        {"dose": DoseSpec.constant(0.1)},
        {"policy": policy()},
    ],
    ids=str,
)
def test_the_default_holds_however_a_client_is_opened(
    opened: Open, options: dict[str, Any]
) -> None:
    client, backend = opened(**options)
    asked = [{}, {"alpha": 0.3}, {"tier": "maximum"}]
    for one in asked:
        reply = client.generate(text="A", temperature=1.0, seed=1, **one)
        assert told(reply) == (1.0, DEFAULT)
        assert backend.asked[-1].dose.decision_tokens == DEFAULT


def test_a_dose_of_ones_own_may_have_more_and_not_fewer(opened: Open) -> None:
    for count, holds in ((DEFAULT + 5, DEFAULT + 5), (1, DEFAULT)):
        dose = replace(DoseSpec.constant(0.1), decision_tokens=count)
        client, _ = opened(dose=dose)
        found = client.generate(text="A", temperature=1.0).guard.greedy_tokens
        assert found == min(holds, len(SAYS))


@pytest.mark.parametrize(("score", "greedy"), [(-0.01, 0), (0.0, 4), (3.0, 4)])
def test_the_line_is_where_the_dose_begins_to_rise(
    opened: Open, score: float, greedy: int
) -> None:
    client, backend = opened(policy=policy(decision_tokens=4))
    backend.score = score
    assert told(client.generate(text="A", temperature=0.7)) == (0.7, greedy)


@pytest.mark.parametrize(
    ("limit", "asked", "holds"), [(0.5, 1.0, 0.5), (0.5, 0.2, 0.2), (0.0, 1.0, 0.0)]
)
def test_a_request_gets_no_higher_temperature(
    opened: Open, limit: float, asked: float, holds: float
) -> None:
    client, backend = opened(policy=policy(max_temperature=limit))
    reply = client.generate(text="A", temperature=asked, seed=3, top_k=7)
    sampling = backend.asked[-1].sampling
    assert told(reply) == (holds, DEFAULT if holds else 0)
    assert (sampling.temperature, sampling.seed, sampling.top_k) == (holds, 3, 7)


def test_a_greedy_answer_is_reported_and_recorded_as_before(
    opened: Open, tmp_path: Path
) -> None:
    client, _ = opened(audit=tmp_path / "audit.db")
    reply = client.generate(text="A")
    assert told(reply) == (0.0, 0)
    record = end_of(client, reply)
    assert not record.keys() & {"temperature", "greedy_tokens"}
    assert record["schema_version"] == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0.75}, {"temperature": 0.75, "greedy_tokens": DEFAULT}),
        (
            {"temperature": 0.75, "max_new_tokens": 3},
            {"temperature": 0.75, "greedy_tokens": 3},
        ),
        # What is written as nothing is left out, and the version is that of the rest.
        ({"temperature": 1e-9}, {"greedy_tokens": DEFAULT}),
    ],
    ids=str,
)
def test_a_sampled_answer_is_recorded(
    opened: Open, tmp_path: Path, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    client, _ = opened(audit=tmp_path / "audit.db")
    record = end_of(client, client.generate(text="A", **options))
    fields = {name: record.get(name) for name in ("temperature", "greedy_tokens")}
    assert {k: v for k, v in fields.items() if v is not None} == expected
    assert record["schema_version"] == 2
    assert client.audit is not None
    assert [entry.record.seq for entry in client.audit.entries()]


def test_a_block_was_sampled_at_nothing(opened: Open, tmp_path: Path) -> None:
    client, backend = opened(audit=tmp_path / "audit.db", tier="strict")
    backend.score = 9.5
    reply = client.generate(text="A", temperature=1.0)
    assert reply.outcome is Outcome.BLOCKED
    assert (reply.guard.temperature, reply.guard.greedy_tokens) == (0.0, 0)
    assert "temperature" not in end_of(client, reply)


def test_an_engine_that_draws_what_should_be_greedy_is_not_believed(
    opened: Open,
) -> None:
    rule = DoseRule(floor=0.1, ceiling=0.2, low=0.0, high=5.0)
    client, backend = opened(dose=DoseSpec(rule=rule))
    answer = backend._answer

    def lax(job: GenerationJob) -> None:
        dose = replace(job.request.dose, decision_tokens=DEFAULT - 1)
        answer(replace(job, request=replace(job.request, dose=dose)))

    backend._answer = lax  # type: ignore[method-assign]
    reply = client.generate(text="A", temperature=1.0)
    assert reply.outcome is Outcome.ERROR_CLOSED
    assert f"greedy_tokens={DEFAULT}" in (reply.guard.fault or "")


def test_no_option_of_a_request_lowers_them(opened: Open) -> None:
    client, _ = opened()
    with pytest.raises(Exception, match="there is no option 'decision_tokens'"):
        client.generate(text="A", decision_tokens=0)  # type: ignore[call-arg]


def test_plain_data_holds_the_decision() -> None:
    dose = replace(DoseSpec.constant(0.1), decision_tokens=3)
    assert DoseSpec.from_dict(dose.to_dict()).decide() == Decision(
        alpha=0.1, greedy_tokens=3
    )


def end_of(client: SafeAudioLLM, reply: Reply) -> dict[str, Any]:
    assert client.audit is not None
    assert reply.audit_id is not None
    found: dict[str, Any] = json.loads(client.audit.request(reply.audit_id)[-1].data)
    return found
