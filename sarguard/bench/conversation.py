"""What a conversation costs: its scores, and its later turns.

Every request asks for one token, so that its time is that of the first one. Clips are
noise: what they say does not change what they cost.
"""

from __future__ import annotations

import itertools
import time
from uuid import uuid4

from sarguard.bench.rows import Bar, Measured, in_turn, medians
from sarguard.bench.synthetic import (
    never_stopping,
    noise,
    noise_bundle,
    require_answer,
)
from sarguard.client import SafeAudioLLM
from sarguard.models.loading import LoadedModel
from sarguard.policy.model import Policy
from sarguard.policy.sections import Audit, History, Steering
from sarguard.policy.tiers import Tier
from sarguard.steering.bundle import TierCard
from sarguard.types import Turn

LATER_TURNS = (8, 30)
"""Turns that are compared with the first."""
_KEPT = 16
"""Turns of the history that the trimmed conversation keeps, answers included."""
_TIER = "permissive"
# Scores, and blocks nothing: a blocked request has no first token.
_NO_BLOCK = TierCard(floor=0.01, ceiling=0.02, low=0.0, high=1.0, block=None)
_QUESTION = "What would you say to this caller?"


def measure_conversation(loaded: LoadedModel, *, repeats: int) -> list[Measured]:
    """Measure the first token with and without scores, and in later turns.

    Args:
        loaded: The model, with no steerer attached.
        repeats: Pairs of measurements.
    """
    bundle = noise_bundle(loaded).with_tiers({_TIER: _NO_BLOCK})
    with (
        never_stopping(loaded),
        SafeAudioLLM.from_loaded(loaded, bundle, alpha=bundle.card.alpha) as client,
    ):
        caller = _Caller(client, loaded)
        rows = [
            caller.scored("clip", "", repeats),
            caller.scored("clip and question", _QUESTION, repeats),
            *(caller.later(number, repeats) for number in LATER_TURNS),
        ]
    policy = Policy(
        audit=Audit(required=False),
        history=History(max_turns=_KEPT),
        steering=Steering(tier=Tier.PERMISSIVE),
    )
    with (
        never_stopping(loaded),
        SafeAudioLLM.from_loaded(loaded, bundle, policy=policy) as client,
    ):
        caller = _Caller(client, loaded)
        return [*rows, caller.later(LATER_TURNS[-1], repeats, trimmed=_KEPT // 4)]


class _Caller:
    """Times the first tokens of one client."""

    def __init__(self, client: SafeAudioLLM, loaded: LoadedModel) -> None:
        self._client = client
        self._loaded = loaded
        self._seeds = itertools.count(1)
        # What the first request of a client compiles and allocates is not counted.
        self._ask([self._spoken()], _TIER)

    def scored(self, what: str, text: str, repeats: int) -> Measured:
        """Compare a request that is scored with one whose dose is given."""
        pairs = in_turn(
            lambda: self._ask([self._spoken(text)], _TIER),
            lambda: self._ask([self._spoken(text)], None),
            repeats=repeats,
        )
        return self._row(f"first token, {what}, scored / not scored", 1.1, pairs)

    def later(self, number: int, repeats: int, *, trimmed: int = 0) -> Measured:
        """Compare a later turn of a conversation with the first of another.

        Args:
            number: The turn.
            repeats: Pairs of measurements.
            trimmed: Turns that leave at once when the history is trimmed. So many
                exchanges in a row are then measured `repeats` times each: the prompt
                is read anew after some of them and goes on after the others.
        """
        phases = max(1, trimmed // 2)
        said = [self._spoken() for _ in range(number + phases - 1)]
        count = itertools.count()

        def newest() -> float:
            users = said[: number + next(count) % phases]
            turns = [t for user in users[:-1] for t in (user, _answered())]
            session = uuid4().hex
            # The turn before leaves what this one goes on from.
            self._ask(turns[:-1], _TIER, session)
            return self._ask([*turns, users[-1]], _TIER, session)

        pairs = in_turn(
            newest,
            lambda: self._ask([self._spoken()], _TIER, uuid4().hex),
            repeats=repeats * phases,
        )
        what = f"turn {number}, trimmed" if trimmed else f"turn {number}"
        return self._row(f"first token, {what} / turn 1", 1.3, pairs)

    def _spoken(self, text: str = "") -> Turn:
        clip = noise(self._loaded, seed=next(self._seeds))
        return Turn(role="user", text=text, audio=(clip,))

    def _ask(
        self, turns: list[Turn], tier: str | None, session: str | None = None
    ) -> float:
        """Return the seconds that one token takes.

        Raises:
            SteeringError: There was no answer.
        """
        newest = turns[-1]
        begin = time.perf_counter()
        reply = self._client.generate(
            [(clip, self._loaded.sampling_rate) for clip in newest.audio],
            newest.text,
            history=turns[:-1],
            tier=tier,
            session=session,
            max_new_tokens=1,
        )
        taken = time.perf_counter() - begin
        require_answer(reply)
        return taken

    def _row(
        self, what: str, limit: float, pairs: list[tuple[float, float]]
    ) -> Measured:
        ours, other = medians(pairs)
        return Measured(
            what=what,
            on=self._loaded.name,
            bar=Bar(sense="<=", limit=limit),
            values=tuple(mine / theirs for mine, theirs in pairs),
            ours=ours,
            other=other,
            unit="s",
        )


def _answered() -> Turn:
    return Turn(role="assistant", text="It depends on the season, so ask there first.")
