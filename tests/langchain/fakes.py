"""A client that answers without a model, clips, and a tracer that records."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import soundfile  # type: ignore[import-untyped]
from langchain_core.tracers import BaseTracer
from langchain_core.tracers.schemas import Run

from sarguard import (
    Done,
    GuardReport,
    Outcome,
    Policy,
    Refusal,
    Reply,
    SafeAudioLLM,
    TextDelta,
    Timings,
    Turn,
    Usage,
)
from sarguard.audio import load_audio
from sarguard.steering.dose import DoseSpec
from sarguard.types import Event

RATE = 16_000
DIGEST = "d" * 64


class FakeBundle:
    digest = DIGEST


class FakeStream:
    """Stream of one answer's events that counts what was read and closed."""

    def __init__(self, client: FakeClient, events: Sequence[Event]) -> None:
        self._client = client
        self._events = iter(events)

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.closed += 1

    def __iter__(self) -> FakeStream:
        return self

    def __next__(self) -> Event:
        event = next(self._events)
        time.sleep(self._client.seconds)
        self._client.sent.append(event)
        return event

    async def __aenter__(self) -> FakeStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.closed += 1

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> Event:
        event = next(self._events, None)
        if event is None:
            raise StopAsyncIteration
        await asyncio.sleep(self._client.seconds)
        self._client.sent.append(event)
        return event


class FakeClient(SafeAudioLLM):
    """Client that gives one reply to everything and records its requests.

    Clips are decoded for real, so a bad one fails as it does with a model.
    """

    def __init__(
        self,
        text: str = "Paris.",
        *,
        outcome: Outcome = Outcome.ANSWERED,
        finish_reason: str = "stop",
        fault: str | None = None,
        streamed: str = "",
        audit_id: str | None = None,
        seconds: float = 0.0,
        follows_schema: bool = False,
    ) -> None:
        """Create a client.

        Args:
            text: The reply's.
            outcome: The reply's.
            finish_reason: The reply's.
            fault: The reply's.
            streamed: What comes before the text, where that takes an answer's place.
            audit_id: The reply's.
            seconds: Pause before each event.
            follows_schema: Fill strings into a schema, where one is given.
        """
        self.follows_schema = follows_schema
        self._policy = Policy.preset("balanced")
        self.reply = Reply(
            text=text,
            outcome=outcome,
            finish_reason=finish_reason,  # type: ignore[arg-type]
            usage=Usage(prompt_tokens=40, audio_tokens=25, output_tokens=3),
            timings=Timings(prefill_s=0.1, first_token_s=0.2, total_s=0.3),
            guard=GuardReport(
                alpha=0.1,
                bundle_digest=DIGEST,
                steered_positions=3,
                layers=2,
                fault=fault,
            ),
            audit_id=audit_id,
        )
        self.streamed = streamed
        self.seconds = seconds
        self.requests: list[dict[str, Any]] = []
        self.sent: list[Event] = []
        self.closed = 0
        self.failures: list[tuple[str, dict[str, Any]]] = []
        self.released: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.fault: Exception | None = None
        """Raised in place of an answer."""

    @property
    def alpha(self) -> float:
        return 0.1

    @property
    def dose(self) -> DoseSpec:
        return DoseSpec.constant(0.1)

    @property
    def bundle(self) -> Any:
        return FakeBundle()

    @property
    def policy(self) -> Policy:
        return self._policy

    @property
    def model_name(self) -> str:
        return "fake"

    @property
    def context_tokens(self) -> int:
        return 8_192

    def count_tokens(self, turns: Sequence[Turn]) -> list[int]:
        # A word is a token, and so is a tenth of a second.
        return [
            len(turn.text.split()) + sum(len(c) * 10 // RATE for c in turn.audio) + 3
            for turn in turns
        ]

    def token_ids(self, text: str) -> list[int]:
        return list(range(len(text.split())))

    def record_failure(self, error: Exception, **options: Any) -> None:
        self.failures.append((type(error).__name__, options))

    def record_release(self, session: str, **what: Any) -> None:
        self.released.append({"session": session, **what})

    def end_session(self, session: str, *, tenant: str | None = None) -> None:
        self.ended.append(session)

    def events(self, schema: dict[str, Any] | None = None) -> list[Event]:
        reply = self.reply
        if self.follows_schema and schema is not None:
            filled = dict.fromkeys(schema.get("properties", ()), "Why?")
            reply = replace(reply, text=json.dumps(filled))
        by_model = reply.outcome in (
            *(Outcome.ANSWERED, Outcome.REFUSED, Outcome.ERROR_OPEN),
            *(Outcome.TIMEOUT, Outcome.CANCELLED),
        )
        text = reply.text if by_model else self.streamed
        pieces = re.findall(r"\S+\s*", text)
        events: list[Event] = [TextDelta(text=piece) for piece in pieces]
        if reply.outcome is Outcome.REFUSED or not by_model:
            events.append(Refusal(outcome=reply.outcome, text=reply.text))
        return [*events, Done(reply=reply)]

    def stream(  # type: ignore[override]
        self, audio: Any = None, text: str = "", **options: Any
    ) -> FakeStream:
        self.record(audio, text, options)
        return FakeStream(self, self.events(options.get("json_schema")))

    def astream(  # type: ignore[override]
        self, audio: Any = None, text: str = "", **options: Any
    ) -> FakeStream:
        self.record(audio, text, options)
        return FakeStream(self, self.events(options.get("json_schema")))

    def record(self, audio: Any, text: str, options: dict[str, Any]) -> None:
        if self.fault is not None:
            raise self.fault
        sources = audio if isinstance(audio, list) else []
        clips = [load_audio(source, sample_rate=RATE) for source in sources]
        self.requests.append({"audio": clips, "text": text, **options})

    def turn(self, role: Any, *, text: str = "", audio: Any = None) -> Turn:
        sources = audio if isinstance(audio, list) else [audio]
        clips = tuple(load_audio(source, sample_rate=RATE) for source in sources)
        return Turn(role=role, text=text, audio=clips)


class RecordingTracer(BaseTracer):
    """Tracer that keeps everything that LangChain hands it."""

    def __init__(self) -> None:
        super().__init__(_schema_format="original+chat")
        self.runs: list[Any] = []

    def _persist_run(self, run: Run) -> None:
        self.runs.append(run)

    def text(self) -> str:
        return repr([(run.inputs, run.outputs, run.extra) for run in self.runs])


def refusing(text: str = "I cannot assist with that.") -> FakeClient:
    return FakeClient(text, outcome=Outcome.REFUSED)


def failing(streamed: str = "") -> FakeClient:
    return FakeClient(
        "Please try again later.",
        streamed=streamed,
        outcome=Outcome.ERROR_CLOSED,
        finish_reason="error",
        fault="SteeringNotAppliedError: 0 of 3 positions",
    )


def wav(seconds: float = 0.5, *, pitch: float = 220.0) -> bytes:
    """Return a tone as the bytes of a WAV file."""
    time_axis = np.arange(int(seconds * RATE)) / RATE
    buffer = io.BytesIO()
    tone = 0.3 * np.sin(2 * np.pi * pitch * time_axis)
    soundfile.write(buffer, tone, RATE, format="WAV")
    return buffer.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def audio_block(data: bytes | None = None) -> dict[str, Any]:
    """Return a clip as langchain-core's standard audio block."""
    return {
        "type": "audio",
        "base64": encoded(data or wav()),
        "mime_type": "audio/wav",
    }
