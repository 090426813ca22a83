"""Verdicts on requests that a session asks again, kept in memory.

A request that was refused or blocked ends so again when the same session repeats it:
another seed, temperature, schema, system prompt or tier would only draw until one
answer gets through. What is kept is a keyed digest of the newest turn, under a key
that the process makes and never writes down, and the outcome.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sarguard.serving.forking import renew_in_child
from sarguard.serving.request import RequestContext, SessionName
from sarguard.types import Outcome, Turn

KeptOutcome: TypeAlias = Literal[Outcome.REFUSED, Outcome.BLOCKED]

_MAX_SESSIONS = 10_000
_MAX_VERDICTS = 256
_KEY_BYTES = 32
# 60 dB below full scale, in steps of 16 bits.
_AUDIBLE = 33
# Fewer words alone ("Yes, sure.") say different things after different turns.
_MIN_WORDS = 4
_MIN_CHARS = 24


class KeptVerdicts:
    """Verdicts by tenant and session; any number of threads may use it at once.

    Bounded twice: the session that asked longest ago goes first, and within a session
    the verdict that was needed longest ago. Nothing is kept without a session.
    """

    def __init__(
        self, *, max_sessions: int = _MAX_SESSIONS, max_verdicts: int = _MAX_VERDICTS
    ) -> None:
        """Keep nothing yet.

        Args:
            max_sessions: Most sessions that verdicts are kept of.
            max_verdicts: Most verdicts of one session.
        """
        self._max_sessions = max_sessions
        self._max_verdicts = max_verdicts
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._sessions: OrderedDict[SessionName, OrderedDict[bytes, KeptOutcome]] = (
            OrderedDict()
        )
        self.begin_anew()
        renew_in_child(self)

    def find(
        self, context: RequestContext, turns: Sequence[Turn]
    ) -> KeptOutcome | None:
        """Return how this request ended in its session before, if it was held back."""
        name = context.session_name
        # Most requests come from sessions that nothing was refused in: no digest then.
        if name is None or name not in self._sessions:
            return None
        digest = self._digest(name, turns)
        with self._lock:
            kept = self._sessions.get(name)
            if kept is None or digest not in kept:
                return None
            self._sessions.move_to_end(name)
            kept.move_to_end(digest)
            return kept[digest]

    def keep(
        self, context: RequestContext, turns: Sequence[Turn], outcome: KeptOutcome
    ) -> None:
        """Keep how a request ended; without a session or turns nothing is kept."""
        name = context.session_name
        if name is None or not turns:
            return
        digest = self._digest(name, turns)
        with self._lock:
            kept = self._sessions.setdefault(name, OrderedDict())
            self._sessions.move_to_end(name)
            # A block is the harder verdict, and stays one.
            if kept.get(digest) is not Outcome.BLOCKED:
                kept[digest] = outcome
            kept.move_to_end(digest)
            while len(kept) > self._max_verdicts:
                kept.popitem(last=False)
            while len(self._sessions) > self._max_sessions:
                self._sessions.popitem(last=False)

    def forget(self, tenant: str | None, session: str) -> None:
        """Forget every verdict of a session."""
        with self._lock:
            self._sessions.pop((tenant, session), None)

    def sessions(self) -> list[SessionName]:
        """Return the sessions that verdicts are kept of."""
        with self._lock:
            return list(self._sessions)

    def __len__(self) -> int:
        """Return how many sessions verdicts are kept of."""
        return len(self._sessions)

    def _digest(self, name: SessionName, turns: Sequence[Turn]) -> bytes:
        made = hmac.new(self._key, digestmod=hashlib.sha256)
        # The tenant and the session as well, so that no digest means anything in
        # another one.
        for part in (repr(name).encode(), *_parts(turns)):
            # With its length: where one part ends and the next begins counts.
            made.update(len(part).to_bytes(8, "big"))
            made.update(part)
        return made.digest()

    def begin_anew(self) -> None:
        """Replace the lock, which another thread of a parent may have held."""
        # Held for single operations on dictionaries; digests are made outside of it.
        self._lock = threading.Lock()


def _parts(turns: Sequence[Turn]) -> Iterator[bytes]:
    """Yield what tells the newest turn from others."""
    newest = turns[-1]
    yield from _of_turn(newest)
    words = _folded(newest.text)
    brief = len(words.split()) < _MIN_WORDS and len(words) < _MIN_CHARS
    if brief and not newest.audio:
        for turn in turns[:-1]:
            if turn.role != "system":
                yield turn.role.encode()
                yield from _of_turn(turn)


def _of_turn(turn: Turn) -> Iterator[bytes]:
    yield len(turn.audio).to_bytes(8, "big")
    for clip in turn.audio:
        yield _sound(clip)
    yield _folded(turn.text).encode("utf-8", "surrogatepass")


def _sound(clip: NDArray[np.float32]) -> bytes:
    """Return a clip's samples, without what cannot be heard at either end."""
    # As 16 bits: the same recording may come as a file or as floats.
    samples = np.clip(np.round(clip * 32768), -32768, 32767).astype("<i2")
    # Sample by sample rather than in frames, so that padding of any length leaves the
    # same sound.
    audible = np.flatnonzero((samples >= _AUDIBLE) | (samples <= -_AUDIBLE))
    if len(audible):
        samples = samples[audible[0] : audible[-1] + 1]
    return samples.tobytes()


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
