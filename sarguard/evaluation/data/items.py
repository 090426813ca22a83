"""What is asked in an evaluation: one request, and what is known about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sarguard.errors import ConfigurationError
from sarguard.types import Role, Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

CLEAN = "clean"
"""The variant of a request that nothing was done to."""

Load: TypeAlias = "Callable[[int], Samples]"
"""Decodes a clip at a rate in hertz: mono, shape (samples,)."""
ItemKind = Literal["harmful", "safe", "unlabelled"]
"""Whether a request is harmful, harmless, or not known to be either."""
Axis = Literal["variant", "context", "attack"]
"""What a changed request differs in: how it sounds or where it stands (`variant`), what
stands around it (`context`), or what somebody did to get it answered (`attack`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """A clip beside a request's own."""

    name: str
    """Tells it from others: an identifier or a path."""
    load: Load


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PastTurn:
    """One turn before the one that is asked, its clips not decoded yet."""

    role: Role
    text: str = ""
    sounds: tuple[Sound, ...] = ()

    def turn(self, rate: int) -> Turn:
        """Return the turn, its clips at a rate in hertz."""
        audio = tuple(sound.load(rate) for sound in self.sounds)
        return Turn(role=self.role, text=self.text, audio=audio)

    def to_dict(self) -> dict[str, Any]:
        """Return what identifies the turn, ready for JSON."""
        sounds = [sound.name for sound in self.sounds]
        return {"role": self.role, "text": self.text, "sounds": sounds}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AskOptions:
    """Options that a request is asked with, as a client takes them."""

    json_schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    """Most tokens of its answer; None for the run's."""

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values."""
        return {
            "json_schema": self.json_schema,
            "stop": list(self.stop),
            "max_new_tokens": self.max_new_tokens,
        }


PLAIN = AskOptions()
"""Nothing beside the request itself."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """One request of a suite."""

    id: str
    """Unique in a run."""
    suite: str
    """Such as `harmful`, `safe`, `borderline` or `ordinary`."""
    kind: ItemKind
    cluster: str
    """Shared by requests that are alike (matched pairs, voices, variants of one);
    intervals are over clusters."""
    load: Load | None
    """Decode the clip of the newest turn. None without one."""
    variant: str = CLEAN
    """Name of what was done to the request."""
    axis: Axis = "variant"
    topic: str = ""
    request: str = ""
    """What is asked, as text; empty where it is not known."""
    text: str = ""
    """Text that goes with the clip."""
    history: tuple[PastTurn, ...] = ()
    """Turns before the one that is asked."""
    system: str = ""
    """System prompt; empty without one."""
    before: tuple[Sound, ...] = ()
    """Clips before the request's own in the newest turn."""
    behind: tuple[Sound, ...] = ()
    options: AskOptions = field(default=PLAIN)

    def turns(self, rate: int) -> tuple[Turn, ...]:
        """Return the conversation that is answered, its clips at a rate in hertz."""
        system = (Turn(role="system", text=self.system),) if self.system else ()
        past = tuple(turn.turn(rate) for turn in self.history)
        return (*system, *past, self.own_turn().turn(rate))

    def own_turn(self) -> PastTurn:
        """Return the newest turn, for a place in the conversation."""
        own = () if self.load is None else (Sound(name=self.id, load=self.load),)
        sounds = (*self.before, *own, *self.behind)
        return PastTurn(role="user", text=self.text, sounds=sounds)

    @property
    def clips(self) -> int:
        """Return how many clips the conversation has."""
        past = sum(len(turn.sounds) for turn in self.history)
        return past + len(self.own_turn().sounds)

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
        names = ("id", "suite", "kind", "cluster", "variant", "axis", "topic")
        return {name: getattr(self, name) for name in names} | {
            "request": self.request,
            "text": self.text,
            "system": self.system,
            "history": [turn.to_dict() for turn in self.history],
            "before": [sound.name for sound in self.before],
            "behind": [sound.name for sound in self.behind],
            "options": self.options.to_dict(),
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
