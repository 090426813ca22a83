"""One call of the chat model, on its way to the guarded client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.requests import Request, Said
from sarguard import SafeAudioLLM, SarguardError, Turn

if TYPE_CHECKING:
    # What the client's own methods return; no name of it is needed at run time.
    Events = Iterator[Any]
    AsyncEvents = AsyncIterator[Any]

PER_CALL = ("max_tokens", "seed", "temperature", "timeout", "top_p")
# What a request may say of itself. The client holds a tier against its policy's floor.
PARTICULARS = ("locale", "request_id", "session", "tenant", "tier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Hold a request and what to decode it with."""

    client: SafeAudioLLM
    request: Request
    options: Mapping[str, Any]

    @contextmanager
    def events(self) -> Iterator[Events]:
        """Ask, and cancel what is left when the block is left.

        Raises:
            AudioError: A clip cannot be used; the message says which.
            SarguardError: As `SafeAudioLLM.stream` does.
        """
        try:
            with self.client.stream(**self._asked()) as events:
                yield events
        except SarguardError as error:
            self._blame_clip(error)
            raise

    @asynccontextmanager
    async def aevents(self) -> AsyncIterator[AsyncEvents]:
        """Ask without blocking the event loop; see `events`."""
        try:
            # The clips of earlier turns are decoded here.
            asked = await asyncio.to_thread(self._asked)
            async with self.client.astream(**asked) as events:
                yield events
        except SarguardError as error:
            await asyncio.to_thread(self._blame_clip, error)
            raise

    def _asked(self) -> dict[str, Any]:
        question = self.request.question
        return {
            "audio": [clip.data for clip in question.clips] or None,
            "text": question.text,
            "system": self.request.system,
            "history": [self._turn(said) for said in self.request.history],
            **self.options,
        }

    def _turn(self, said: Said) -> Turn:
        if not said.clips:
            return Turn(role=said.role, text=said.text)
        clips: list[Any] = [clip.data for clip in said.clips]
        return self.client.turn(said.role, text=said.text, audio=clips)

    def _blame_clip(self, error: SarguardError) -> None:
        """Raise the fault of the first clip that cannot be used, if one cannot."""
        for clip in self.request.clips():
            try:
                self.client.turn("user", audio=clip.data)
            except SarguardError as fault:
                raise type(fault)(f"{clip.where}: {fault}") from error


def read_options(
    settings: object, overrides: Mapping[str, Any], stop: list[str] | None
) -> dict[str, Any]:
    """Return what to decode with; nothing here can weaken the guard.

    Args:
        settings: The chat model, for what the call leaves open.
        overrides: What was given with the call.
        stop: Stop sequences of the call.

    Raises:
        InvalidInputError: Something cannot be given with a call.
    """
    unknown = sorted(set(overrides) - {*PER_CALL, *PARTICULARS})
    if unknown:
        raise InvalidInputError(
            f"cannot take {', '.join(unknown)} with a call: this model takes "
            f"{', '.join((*PER_CALL, *PARTICULARS))} and stop, and has no tools. The "
            "model, its policy and the dose are set where the client is loaded."
        )
    if stop is not None and not all(stop):
        raise InvalidInputError(
            "an empty stop sequence would end every answer at once: leave it out."
        )
    options = {n: overrides.get(n, getattr(settings, n)) for n in PER_CALL}
    options["max_new_tokens"] = options.pop("max_tokens")
    options["stop"] = stop
    said = {n: overrides[n] for n in PARTICULARS if overrides.get(n) is not None}
    return {**options, **said, "entry": "langchain"}
