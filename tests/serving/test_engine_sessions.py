"""A client's sessions: what the engine keeps of them, and when it drops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sarguard.client import SafeAudioLLM
from sarguard.models.loading import LoadedModel
from sarguard.serving.batch_engine import BatchEngine
from sarguard.serving.sessions import SessionLimits
from sarguard.types import Outcome, Reply, Turn
from tests import tiny
from tests.serving.conftest import Steps

Open = Callable[..., SafeAudioLLM]
CLIPS = [(tiny.clip(0.5, pitch=200 + 40 * n), tiny.RATE) for n in range(4)]


class Encoder:
    """Clips that went through a model's encoder, a number a pass."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.clips: list[int] = []
        loaded.model.model.audio_tower.conv1.register_forward_hook(
            lambda *run: self.clips.append(run[2].shape[0])
        )


def engine_of(client: SafeAudioLLM) -> BatchEngine:
    backend = client._backend
    assert isinstance(backend, BatchEngine)
    return backend


def talk(client: SafeAudioLLM, **options: Any) -> list[Reply]:  # noqa: ANN401
    """Ask in turn, each time with what was said before."""
    history: list[Turn] = []
    replies = []
    for clip in CLIPS:
        asked = client.turn("user", text="And this?", audio=clip)
        reply = client.generate(
            clip, "And this?", history=history, max_new_tokens=3, **options
        )
        replies.append(reply)
        history += [asked, Turn(role="assistant", text=reply.text or "Yes.")]
    return replies


def test_a_conversation_costs_what_its_turns_cost(
    opened: Open, loaded: LoadedModel
) -> None:
    client = opened()
    encoder = Encoder(loaded)
    plain = talk(client)
    assert encoder.clips == [1, 2, 3, 4]
    encoder.clips.clear()
    kept = talk(client, session="s")
    assert encoder.clips == [1, 1, 1, 1]
    assert [reply.text for reply in kept] == [reply.text for reply in plain]
    assert {reply.outcome for reply in kept} <= {Outcome.ANSWERED, Outcome.REFUSED}


@pytest.mark.parametrize(
    "other",
    [{"session": "t"}, {"session": "s", "tenant": "b"}, {}],
)
def test_what_a_session_sent_makes_nothing_faster_for_another(
    opened: Open, loaded: LoadedModel, other: dict[str, str]
) -> None:
    client = opened()
    client.generate(CLIPS[0], "Hi.", max_new_tokens=1, session="s", tenant="a")
    encoder = Encoder(loaded)
    client.generate(CLIPS[0], "Hi.", max_new_tokens=1, **other)  # type: ignore[arg-type]
    assert encoder.clips == [1]


def test_a_session_that_ended_is_forgotten(opened: Open, loaded: LoadedModel) -> None:
    client = opened()
    client.generate(CLIPS[0], "Hi.", max_new_tokens=1, session="s", tenant="a")
    encoder = Encoder(loaded)
    client.generate(CLIPS[0], "Hi.", max_new_tokens=1, session="s", tenant="a")
    assert encoder.clips == []
    engine_of(client).forget("a", "s")
    client.generate(CLIPS[0], "Hi.", max_new_tokens=1, session="s", tenant="a")
    assert encoder.clips == [1]


def test_a_session_that_ends_during_its_request_leaves_nothing(
    opened: Open, steps: Steps
) -> None:
    client = opened()
    steps.hold()
    stream = client.stream(text="Hi.", max_new_tokens=1, session="s")
    steps.wait_until_held()
    engine_of(client).forget(None, "s")
    steps.release()
    list(stream)
    assert len(engine_of(client)._sessions) == 0


def test_nothing_is_kept_without_a_session_or_after_closing(opened: Open) -> None:
    client = opened()
    client.generate(CLIPS[0], "Hi.", max_new_tokens=1)
    assert len(engine_of(client)._sessions) == 0
    client.generate(CLIPS[0], "Hi.", max_new_tokens=1, session="s")
    assert len(engine_of(client)._sessions) == 1
    client.close()
    assert len(engine_of(client)._sessions) == 0


def test_an_engine_without_room_answers_alike(opened: Open) -> None:
    client = opened()
    expected = [reply.text for reply in talk(client, session="s")]
    engine = engine_of(client)
    engine._sessions._limits = SessionLimits(max_bytes=0)
    assert [reply.text for reply in talk(client, session="t")] == expected
    assert len(engine._sessions) == 0
