"""Transcripts of a request's clips: each made once, by a recogniser of one's own."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from sarguard.errors import CheckTimeoutError, ConfigurationError
from sarguard.guard.time_budget import run_within

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Transcriber: TypeAlias = "Callable[[NDArray[np.float32], int], str]"
"""Turns a clip, mono at a rate in hertz, into text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRecogniser:
    """A transcriber with a name and a version, which stand in records, and a budget."""

    run: Callable[[NDArray[np.float32], int], str | Awaitable[str]]
    """Turns a clip, mono at a rate in hertz, into text; plain or async, called on a
    thread of its own."""
    name: str = "transcriber"
    version: str = "1"
    timeout_s: float = 30.0
    """Seconds that one clip may take; a check that asked for more has not passed."""
    remote: str | None = None
    """The service outside of this process that it hands the sound to, as the policy
    names it; None where the sound stays here."""

    def __post_init__(self) -> None:
        if not self.name or not self.version or not self.timeout_s > 0:
            raise ConfigurationError(
                f"a speech recogniser named {self.name!r}, version {self.version!r}, "
                f"of {self.timeout_s} seconds: give a name, a version, and a time "
                "above 0"
            )

    @classmethod
    def named(cls, transcriber: SpeechRecogniser | Transcriber) -> SpeechRecogniser:
        """Return a recogniser, made of a function if it is none."""
        if isinstance(transcriber, cls):
            return transcriber
        return cls(run=transcriber)  # type: ignore[arg-type]


TranscriptState: TypeAlias = Literal["transcribed", "failed", "timed_out"]


class Transcripts:
    """The transcripts of one request, by the digest of the clip."""

    def __init__(
        self,
        recogniser: SpeechRecogniser | None,
        sample_rate: int,
        *,
        services: tuple[str, ...] = (),
    ) -> None:
        """Make no transcript yet.

        Args:
            recogniser: Makes them; None where there is none.
            sample_rate: Samples a second of every clip.
            services: Services that the policy lets the sound go to.
        """
        self._recogniser = recogniser
        self._rate = sample_rate
        self._services = services
        # Two checks of one request may ask at once; each transcript is made once.
        self._making = threading.Lock()
        self._made: dict[str, str | Exception] = {}
        # Guards the clock alone, which the thread that waits for a check reads.
        self._clock = threading.Lock()
        self._spent = 0.0
        self._since: float | None = None

    @property
    def recogniser(self) -> SpeechRecogniser | None:
        """Return what makes them."""
        return self._recogniser

    @property
    def state(self) -> TranscriptState | None:
        """Return how making them went; None where none was asked for."""
        # A copy at once: a check whose time is over may still be asking for more.
        made = list(self._made.values())
        failed = [found for found in made if isinstance(found, Exception)]
        if any(isinstance(found, CheckTimeoutError) for found in failed):
            return "timed_out"
        if failed:
            return "failed"
        return "transcribed" if made else None

    def spent_s(self) -> float:
        """Return the seconds that were spent on making them so far."""
        with self._clock:
            running = 0.0 if self._since is None else time.monotonic() - self._since
            return self._spent + running

    def of(self, clip: NDArray[np.float32]) -> str:
        """Return what a clip says.

        Raises:
            CheckTimeoutError: It took too long.
            ConfigurationError: There is no recogniser, it returned no text, or its
                service is not named by the policy.
        """
        if self._recogniser is None:
            raise ConfigurationError("there is no transcriber: give the client one")
        with self._making:
            digest = hashlib.sha256(clip.tobytes()).hexdigest()
            if digest not in self._made:
                self._made[digest] = self._make(self._recogniser, clip)
            found = self._made[digest]
        if isinstance(found, Exception):
            raise found
        return found

    def _make(
        self, recogniser: SpeechRecogniser, clip: NDArray[np.float32]
    ) -> str | Exception:
        """Return the transcript, or what went wrong, which holds for every check."""
        if recogniser.remote is not None and recogniser.remote not in self._services:
            return ConfigurationError(not_named(recogniser.name, recogniser.remote))
        what = f"transcriber {recogniser.name}"
        with self._clock:
            self._since = time.monotonic()
        try:
            run = partial(recogniser.run, clip, self._rate)
            found = run_within(recogniser.timeout_s, run, what)
            if not isinstance(found, str):
                raise ConfigurationError(
                    f"{what} returned {type(found).__name__}: return a text"
                )
            return found
        except Exception as error:
            return error
        finally:
            with self._clock:
                self._spent += time.monotonic() - (self._since or 0.0)
                self._since = None


def not_named(name: str, service: str) -> str:
    """Return why something that hands content to a service is not asked."""
    return (
        f"{name} hands what callers say to the service {service!r}, which the policy "
        "does not name: write\n"
        f"  checks:\n    services: [{service}]\n"
        "into the policy, or leave it out"
    )
