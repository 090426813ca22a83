"""What an answer is told to be, whatever cuts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sarguard.client import SafeAudioLLM
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome
from tests.serving.fakes import FakeBackend

DECLINES = "I'm sorry, but I can't help with that."


@pytest.fixture
def client(
    tiny_bundle: SteeringBundle, request: pytest.FixtureRequest
) -> Iterator[SafeAudioLLM]:
    backend = FakeBackend(
        request.param,
        vectors_digest=tiny_bundle.card.vectors_digest,
        layers=tiny_bundle.card.layers,
    )
    with SafeAudioLLM(backend, tiny_bundle) as client:
        yield client


@pytest.mark.parametrize("client", [DECLINES], indirect=True)
@pytest.mark.parametrize("stop", ["help", "that", "can't help", "."])
def test_a_stop_string_does_not_make_an_answer_of_a_refusal(
    client: SafeAudioLLM, stop: str
) -> None:
    reply = client.generate(text="A", stop=stop)
    assert reply.outcome is Outcome.REFUSED
    assert stop not in reply.text
    assert not reply.guard.cut_short


@pytest.mark.parametrize("client", [DECLINES], indirect=True)
@pytest.mark.parametrize("stop", ["I'm", "sorry", "I"])
def test_an_answer_that_ends_before_one_can_tell_says_so(
    client: SafeAudioLLM, stop: str
) -> None:
    reply = client.generate(text="A", stop=stop)
    assert (reply.outcome, reply.guard.cut_short) == (Outcome.ANSWERED, True)


@pytest.mark.parametrize("client", [DECLINES], indirect=True)
@pytest.mark.parametrize("limit", [1, 3, 9])
def test_so_does_one_that_the_limit_of_tokens_ends(
    client: SafeAudioLLM, limit: int
) -> None:
    reply = client.generate(text="A", max_new_tokens=limit)
    assert reply.finish_reason == "length"
    assert (reply.outcome, reply.guard.cut_short) == (Outcome.ANSWERED, True)


@pytest.mark.parametrize(
    "client", ["Paris is the capital.", "I'm glad to. Here you are."], indirect=True
)
@pytest.mark.parametrize("asked", [{"stop": "the"}, {"max_new_tokens": 18}, {}])
def test_what_is_no_refusal_is_an_answer(
    client: SafeAudioLLM, asked: dict[str, object]
) -> None:
    reply = client.generate(text="A", **asked)  # type: ignore[arg-type]
    assert (reply.outcome, reply.guard.cut_short) == (Outcome.ANSWERED, False)
