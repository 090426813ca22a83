"""What is asked in an evaluation: one request, and what is known about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sarguard.errors import ConfigurationError
from sarguard.evaluation.judges.rules import Kind
from sarguard.types import Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

CLEAN = "clean"
"""The variant of a request that nothing was done to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """One request of a suite."""

    id: str
    """Unique in a run."""
    suite: str
    """Such as `harmful`, `safe`, `borderline` or `ordinary`."""
    kind: Kind
    cluster: str
    """Shared by requests that are alike (matched pairs, voices, variants of one);
    intervals are over clusters."""
    load: Callable[[int], Samples] | None
    """Decode the clip at a rate in hertz: mono, shape (samples,). None without one."""
    variant: str = CLEAN
    topic: str = ""
    request: str = ""
    """What is asked, as text; empty where it is not known."""
    text: str = ""
    """Text that goes with the clip."""
    history: tuple[Turn, ...] = ()
    """Turns before the one that is asked."""

    def turns(self, rate: int) -> tuple[Turn, ...]:
        """Return the conversation that is answered, its clip at a rate in hertz."""
        audio = () if self.load is None else (self.load(rate),)
        return (*self.history, Turn(role="user", text=self.text, audio=audio))

    def heard(self, change: Callable[[Samples, int], Samples]) -> Item:
        """Return the request with its clip changed, by samples and rate.

        Raises:
            ConfigurationError: There is no clip.
        """
        load = self.load
        if load is None:
            raise ConfigurationError(
                f"the request {self.id} has no clip that could be changed: leave the "
                "variants of sound out"
            )
        return replace(self, load=lambda rate: change(load(rate), rate))

    def to_dict(self) -> dict[str, Any]:
        """Return what identifies the request, ready for JSON."""
        names = ("id", "suite", "kind", "cluster", "variant", "topic", "request")
        return {name: getattr(self, name) for name in names} | {
            "text": self.text,
            "history": [[turn.role, turn.text] for turn in self.history],
        }


def check_items(items: Iterable[Item]) -> None:
    """Raise ConfigurationError if two requests share an identifier."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigurationError(
                f"two requests are called {item.id}: give every one a name of its own"
            )
        seen.add(item.id)


def with_text(items: Iterable[Item], text: str) -> list[Item]:
    """Return the requests with a text beside every clip that has none."""
    return [replace(i, text=i.text or text) if i.load else i for i in items]


def digest_items(items: Iterable[Item]) -> str:
    """Return the SHA-256 over what identifies requests, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item.to_dict(), sort_keys=True).encode())
    return digest.hexdigest()
