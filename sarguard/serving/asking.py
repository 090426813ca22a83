"""The ways of asking a guarded model: whole or in pieces, alone or in batches."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sarguard.audio import AudioLimits, load_audio
from sarguard.decoding import JsonGrammar, Sampling
from sarguard.decoding.detokenizer import read_stop
from sarguard.errors import ConfigurationError
from sarguard.models.loading import LoadedModel
from sarguard.serving.request import (
    Asked,
    Attendant,
    Particulars,
    Question,
    Settings,
)
from sarguard.serving.request_state import Guarding, Ticket
from sarguard.serving.streams import (
    AnswerStream,
    AsyncAnswerStream,
    last_reply,
    last_reply_async,
)
from sarguard.serving.worker import Worker
from sarguard.steering.dose import Dose
from sarguard.types import Outcome, Reply, Role, Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from sarguard.audio import AudioSource


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Desk:
    """Hold what every request of a client shares."""

    loaded: LoadedModel
    worker: Worker
    guarding: Guarding
    attendant: Attendant
    dose: Dose
    fallback: str
    waits: bool
    """Whether callers wait for a place in a full line, or get an error."""


_ABOUT = tuple(field.name for field in fields(Particulars))


class Asking:
    """Take requests in, from any number of threads and tasks at once."""

    _desk: Desk

    def generate(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        *,
        system: str | None = None,
        history: Sequence[Turn] = (),
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] | None = None,
        json_schema: Mapping[str, Any] | None = None,
        seed: int | None = None,
        timeout: float | None = None,
        alpha: float | None = None,
        tier: str | None = None,
        locale: str | None = None,
        tenant: str | None = None,
        session: str | None = None,
        request_id: str | None = None,
        entry: str | None = None,
    ) -> Reply:
        """Answer one request, steered.

        Args:
            audio: One clip or a list of clips, in any form `load_audio` takes.
            text: What the user wrote; audio, text or both are needed.
            system: System prompt; goes before the history.
            history: Earlier turns, oldest first; see `turn` and `Reply.as_turn`.
            max_new_tokens: Most tokens of the answer.
            temperature: 0 for greedy decoding.
            top_p: Share of probability to sample from.
            top_k: Sample from the likeliest so many tokens; 0 from all.
            repetition_penalty: Above 1, tokens that were there become less likely.
            stop: Strings that end the answer; they are not part of it.
            json_schema: What the answer follows, unless the model declines: then it
                is a refusal in words, and the outcome `refused`. Ask for it in the
                text as well. Needs llguidance.
            seed: Makes sampling repeatable, alone or in a batch.
            timeout: Seconds from the call to the reply, the queue included.
            alpha: Strength of this answer, above 0. Where the client has a policy, it
                is the least strength, on top of the tier's.
            tier: Operating point of this answer: `permissive`, `balanced`, `strict`
                or `maximum`; the default is the client's.
            locale: Language of the message that may take an answer's place.
            tenant: Whose request it is, for the record.
            session: The caller's session; the record holds a keyed mark of it.
            request_id: Your own name for the request, for the record.
            entry: The way in that the record names; the default is this method's name.

        Returns:
            The reply. If something failed, or steering could not be proven, its
            outcome is `error_closed` and its text is the fallback; after `timeout`
            it is `timeout`, with what was said by then.

        Raises:
            AudioError: A clip cannot be used.
            ConfigurationError: The request makes no sense as it stands.
            PolicyFloorError: The request asks for less than the policy holds.
            QueueFullError: Too many requests wait, and the client was opened with
                queue_full="raise".
        """
        return last_reply(
            self.stream(
                audio,
                text,
                system=system,
                history=history,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                repetition_penalty=repetition_penalty,
                stop=stop,
                json_schema=json_schema,
                seed=seed,
                timeout=timeout,
                alpha=alpha,
                tier=tier,
                locale=locale,
                tenant=tenant,
                session=session,
                request_id=request_id,
                entry=entry or "generate",
            )
        )

    def stream(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **settings: Unpack[Settings],
    ) -> AnswerStream:
        """Answer one request in pieces; takes what `generate` takes.

        Returns:
            An iterator over `TextDelta` and `Refusal` events that ends with `Done`.
            A piece is there only after its steps were proven to be steered. Closing
            or dropping the iterator frees the model within one decode step.

        Raises:
            AudioError: A clip cannot be used.
            ConfigurationError: The request makes no sense as it stands.
            QueueFullError: Too many requests wait already.
        """
        request = self._request(audio, text, way="stream", **settings)
        return self._enter(request, wait=self._desk.waits)

    async def agenerate(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **settings: Unpack[Settings],
    ) -> Reply:
        """Answer one request without blocking the event loop; see `generate`."""
        settings["entry"] = settings.get("entry") or "agenerate"
        return await last_reply_async(self.astream(audio, text, **settings))

    def astream(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **settings: Unpack[Settings],
    ) -> AsyncAnswerStream:
        """Answer one request in pieces without blocking the event loop.

        Returns:
            An asynchronous iterator; see `stream`. The request goes in with the
            first event that is asked for, and what `stream` raises is raised there.
        """
        request = self._request(audio, text, way="astream", **settings)
        ticket = request.ticket

        async def enter() -> None:
            # Whatever may end the request writes a record, and writing blocks.
            await asyncio.to_thread(ticket.receive)
            try:
                place = self._desk.worker.reserve(ticket, wait=self._desk.waits)
                left = ticket.remaining()
                await asyncio.wait_for(asyncio.wrap_future(place), left)
                await asyncio.to_thread(self._take_in, request)
            except TimeoutError:
                raise
            except Exception as error:
                await asyncio.to_thread(ticket.refuse, error)
                raise

        return AsyncAnswerStream(ticket, self._desk.worker.line, self, enter=enter)

    def generate_batch(self, questions: Iterable[Question]) -> list[Reply]:
        """Answer many requests, together where they fit into a batch.

        Args:
            questions: The arguments of `generate`, one mapping a request; doses,
                lengths, seeds and stop strings may differ.

        Returns:
            The replies, in the order of the questions.

        Raises:
            AudioError: A clip cannot be used.
            ConfigurationError: A request makes no sense as it stands.
        """
        requests = [self._request(way="batch", **question) for question in questions]
        for request in requests:
            request.ticket.receive()
        with ExitStack() as opened:
            with self._desk.worker.line.expecting():
                streams = [
                    opened.enter_context(self._enter(request, wait=True))
                    for request in requests
                ]
            return [last_reply(stream) for stream in streams]

    def turn(
        self,
        role: Role,
        *,
        text: str = "",
        audio: AudioSource | list[AudioSource] | None = None,
    ) -> Turn:
        """Return a turn for `history`, its clips decoded for this model.

        Raises:
            AudioError: A clip cannot be used.
            ConfigurationError: There is neither audio nor text.
        """
        return self._turn(role, text, audio, None)

    def _turn(
        self,
        role: Role,
        text: str,
        audio: AudioSource | list[AudioSource] | None,
        limits: AudioLimits | None,
    ) -> Turn:
        sources = audio if isinstance(audio, list) else [audio]
        clips = tuple(self._hear(s, limits) for s in sources if s is not None)
        if not clips and not text.strip():
            raise ConfigurationError(
                f"a {role} turn with neither audio nor text: give one of them"
            )
        return Turn(role=role, text=text, audio=clips)

    def _hear(
        self, source: AudioSource, limits: AudioLimits | None
    ) -> NDArray[np.float32]:
        loaded = self._desk.loaded
        limits = limits or AudioLimits(max_seconds=loaded.max_audio_seconds)
        return load_audio(source, sample_rate=loaded.sampling_rate, limits=limits)

    def _request(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        *,
        system: str | None = None,
        history: Sequence[Turn] = (),
        max_new_tokens: int = 128,
        stop: str | Sequence[str] | None = None,
        json_schema: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        entry: str | None = None,
        way: str = "generate",
        **others: Any,  # noqa: ANN401
    ) -> _Request:
        desk = self._desk
        about = {name: others.pop(name) for name in _ABOUT if name in others}
        asked = Asked(
            dose=desk.dose,
            fallback=desk.fallback,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(**others),
            stop=read_stop(stop),
            timeout=timeout,
            about=Particulars(entry=entry or way, **about),
        )
        system_turn = [] if system is None else [Turn(role="system", text=system)]
        return _Request(
            ticket=Ticket(asked, guarding=desk.guarding, attendant=desk.attendant),
            before=(*system_turn, *history),
            text=text,
            audio=audio,
            json_schema=json_schema,
        )

    def _enter(self, request: _Request, *, wait: bool) -> AnswerStream:
        worker, ticket = self._desk.worker, request.ticket
        stream = AnswerStream(ticket, worker.line, self)
        ticket.receive()
        try:
            place = worker.reserve(ticket, wait=wait)
            place.result(ticket.remaining())
            self._take_in(request)
        except (TimeoutError, concurrent.futures.TimeoutError):
            ticket.abandon(Outcome.TIMEOUT)
            worker.line.release(ticket)
        except Exception as error:
            ticket.refuse(error)
            stream.close()
            raise
        except BaseException:
            stream.close()
            raise
        return stream

    def _take_in(self, request: _Request) -> None:
        ticket = request.ticket
        limits = ticket.asked.limits
        asked = self._turn("user", request.text, request.audio, limits)
        schema = request.json_schema
        ticket.asked = replace(
            ticket.asked,
            turns=(*request.before, asked),
            grammar=(
                None
                if schema is None
                else JsonGrammar.compile(self._desk.loaded, schema)
            ),
        )
        ticket.admit()
        self._desk.worker.line.enter(ticket)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    ticket: Ticket
    before: tuple[Turn, ...]
    text: str
    audio: AudioSource | list[AudioSource] | None
    json_schema: Mapping[str, Any] | None
