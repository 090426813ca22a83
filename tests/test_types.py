from __future__ import annotations

import dataclasses

import pytest

from sarguard.errors import InvalidRequestError
from sarguard.types import GuardReport, Outcome, Reply, Timings, Turn, Usage
from tests import tiny


def reply() -> Reply:
    return Reply(
        text="Paris.",
        outcome=Outcome.ANSWERED,
        finish_reason="stop",
        usage=Usage(prompt_tokens=30, audio_tokens=20, output_tokens=3),
        timings=Timings(prefill_s=0.1, first_token_s=0.2, total_s=0.3),
        guard=GuardReport(alpha=0.1, bundle_digest="d", steered_positions=3, layers=2),
    )


def test_a_role_is_one_of_three() -> None:
    with pytest.raises(InvalidRequestError, match=r"'robot'.*system, user, assistant"):
        Turn(role="robot")  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_the_user_speaks(role: str) -> None:
    with pytest.raises(InvalidRequestError, match="only user turns"):
        Turn(role=role, text="Hi.", audio=(tiny.clip(0.2),))  # type: ignore[arg-type]


def test_a_reply_becomes_history() -> None:
    turn = reply().as_turn()
    assert (turn.role, turn.text, turn.audio) == ("assistant", "Paris.", ())
    assert turn.outcome is Outcome.ANSWERED
    with pytest.raises(InvalidRequestError, match="only assistant turns"):
        Turn(role="user", text="Hi.", outcome=Outcome.BLOCKED)


def test_a_reply_cannot_be_rewritten() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        reply().text = "London."  # type: ignore[misc]


def test_a_reply_becomes_plain_values() -> None:
    found = reply().to_dict()
    assert found["outcome"] == "answered"
    assert type(found["outcome"]) is str
    assert found["usage"] == {
        "prompt_tokens": 30,
        "audio_tokens": 20,
        "output_tokens": 3,
    }


def test_outcomes_read_as_their_values() -> None:
    assert [str(outcome) for outcome in Outcome] == [
        "answered",
        "refused",
        "blocked",
        "over_limit",
        "error_closed",
        "error_open",
        "cancelled",
        "timeout",
    ]
