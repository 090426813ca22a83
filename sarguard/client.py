"""A client that cannot answer unsteered."""

from __future__ import annotations

import asyncio
import importlib
import os
import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from sarguard.audio import AudioLimits
from sarguard.audio.loading import load_clip, warm_up
from sarguard.audio.samples import Mono
from sarguard.bundles import REFERENCE, choose_bundle, open_bundle, reference_path
from sarguard.calibration.build import calibrate_now
from sarguard.client_options import ClientOptions, checked_options
from sarguard.errors import (
    ConfigurationError,
    InvalidRequestError,
)
from sarguard.extras import missing_extra
from sarguard.guard.factory import GuardHandle, GuardOptions, open_guard
from sarguard.models.loading import (
    DeviceMap,
    DType,
    LoadedModel,
    load_model,
    wrap_model,
)
from sarguard.models.untyped import PretrainedModel, Processor
from sarguard.option_values import as_path
from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override
from sarguard.serving.backend import Backend
from sarguard.serving.batch_engine import BatchEngine
from sarguard.serving.conversation import fit_conversation
from sarguard.serving.request import (
    GenerationInput,
    GenerationOptions,
    GenerationRequest,
)
from sarguard.serving.request_guard import RequestGuard
from sarguard.serving.request_state import ClientFacts, RequestState, to_backend_request
from sarguard.serving.streams import (
    AnswerStream,
    AsyncAnswerStream,
    last_reply,
    last_reply_async,
)
from sarguard.serving.worker import Worker
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import DoseSpec
from sarguard.types import Health, Outcome, Reply, Role, Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from sarguard.audio import AudioSource
    from sarguard.audit.log import AuditLog

BundleLike: TypeAlias = "str | os.PathLike[str] | SteeringBundle"

# What a guard of one's own would silently not do.
_GUARDS_OWN = (
    *("policy", "audit", "tier", "dose"),
    *("input_checks", "output_checks", "transcriber"),
)

_NO_COPY = (
    "a SafeAudioLLM cannot be copied or pickled: it holds a model, a thread and a "
    "ledger. "
    "Share it among threads and tasks, or open one in the process that needs it"
)

FALLBACK = DEFAULT_MESSAGES["en"][Reason.ERROR]
"""What is said where something failed, unless a policy has other words."""


class SafeAudioLLM:
    """A guarded audio-language model.

    Steering is on for every token of every answer. If it cannot be proven, the
    answer is thrown away and the reply holds the fallback text with the outcome
    `error_closed`. While the client is open, the model that it wraps refuses to be
    called directly. Requests of any number of threads and tasks share the model:
    they wait in a queue and are answered in batches, each as if it were alone.

    Each request is steered as strongly as its own state asks, by the rule of a tier.
    A policy says what has to hold; a ledger records each request before its first
    token and at its end.

    A client holds a model, a thread and a ledger: it cannot be copied or pickled. Share
    it, or open another one where it is needed.
    """

    def __init__(
        self,
        backend: Backend,
        bundle: SteeringBundle,
        *,
        guard: RequestGuard | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        """Open a client over a backend; most callers want `from_pretrained`.

        Args:
            backend: What runs the model; it is opened here and closed with the client.
            bundle: The steering bundle that the backend steers with.
            guard: Decides on every request in place of the policy's guard, and has to
                do what that does.
            options: See `ClientOptions`.

        Raises:
            ConfigurationError: Options contradict each other, or one is unknown.
            PolicyError: The policy cannot be read, or holds more than is asked for.
            AuditError: The ledger cannot be opened.
            SteeringError: Steering did not change what the model says.
        """
        options = checked_options(**options)
        given = [name for name in _GUARDS_OWN if options.get(name)]
        if guard is not None and given:
            raise ConfigurationError(
                f"a guard of your own was given beside {', '.join(given)}: those are "
                "for the guard that it replaces"
            )
        alpha, fallback = options.get("alpha"), options.get("fallback")
        self._backend = backend
        self._bundle = bundle
        self._alpha = bundle.card.alpha if alpha is None else float(alpha)
        self._waits = options.get("queue_full", "wait") == "wait"
        self._handle = open_guard(
            backend.info, bundle, memory=backend, **_guard_options(options)
        )
        self._guard: RequestGuard = self._handle.guard if guard is None else guard
        with ExitStack() as undo:
            undo.callback(self._handle.close)
            # Here, and not in the first request that brings a clip.
            warm_up()
            self._facts = ClientFacts(
                model_name=backend.info.model_name,
                bundle_digest=bundle.digest,
                layers=backend.info.layers,
                fallback=FALLBACK if fallback is None else fallback,
                observers=tuple(options.get("observers", ())),
            )
            with self._handle.attaching():
                self._worker = Worker(
                    backend,
                    max_batch=options.get("max_batch", 8),
                    max_queue=options.get("max_queue", 64),
                )
                backend.open()
                undo.callback(backend.close)
            undo.pop_all()
        # Also runs when the client is dropped, and when the interpreter exits.
        self._shut = weakref.finalize(self, _shut, self._worker, backend, self._handle)

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | os.PathLike[str],
        *,
        bundle: BundleLike | None = None,
        calibrate: bool = False,
        device_map: DeviceMap = None,
        dtype: DType = None,
        revision: str | None = None,
        decoder_layers: str | None = None,
        progress: bool = True,
        **options: Unpack[ClientOptions],
    ) -> SafeAudioLLM:
        """Load a model and guard it.

        Args:
            id_or_path: "reference" for the embedded model, a checkpoint directory, or
                a model id on a hub.
            bundle: Steering bundle or its directory; the reference model has its own.
            calibrate: Without a bundle, make one from the calibration clips that ship
                with sarguard. It takes minutes and is not saved.
            device_map: Passed to transformers; the default is the CPU.
            dtype: A torch dtype or "auto"; the default is the checkpoint's own.
            revision: Branch, tag or commit on the hub.
            decoder_layers: Dotted path of the text decoder's layers, for models whose
                structure does not tell.
            progress: Show progress on stderr.
            options: Policy, ledger, tier and queue; see `ClientOptions`.

        Raises:
            ArtifactNotFoundError: There is no bundle and `calibrate` is not set.
            ArtifactMismatchError: The bundle was made for another model.
            ConfigurationError: Options contradict each other, or one is unknown.
            UnsupportedModelError: The model cannot be found or cannot be guarded.
            PolicyError: The policy cannot be read, or holds more than is asked for.
            AuditError: The ledger cannot be opened.
            SteeringError: Steering did not change what the model says.
        """
        # A wrong option should not cost a load.
        options = checked_options(**options)
        name = as_path("id_or_path", id_or_path, ConfigurationError)
        chosen = choose_bundle(name, bundle, calibrate=calibrate)
        path = reference_path(progress=progress) if name == REFERENCE else name
        loaded = load_model(
            path,
            device_map=device_map,
            dtype=dtype,
            revision=revision,
            decoder_layers=decoder_layers,
            progress=progress,
        )
        loaded = replace(loaded, name=name)
        if chosen is None:
            chosen = calibrate_now(loaded, progress=progress)
        return cls.from_loaded(loaded, chosen, **options)

    @classmethod
    def from_model(
        cls,
        model: PretrainedModel,
        processor: Processor,
        *,
        bundle: BundleLike,
        name: str | None = None,
        decoder_layers: str | None = None,
        **options: Unpack[ClientOptions],
    ) -> SafeAudioLLM:
        """Guard a model that is already in memory.

        The model stays guarded until `close`: calling it directly raises.

        Raises:
            ArtifactNotFoundError: There is no bundle at that path.
            ArtifactMismatchError: The bundle was made for another model.
            UnsupportedModelError: The model cannot be guarded.
            SteeringError: Steering did not change what the model says.
        """
        loaded = wrap_model(
            model,
            processor,
            name=name or _own_name(model),
            decoder_layers=decoder_layers,
        )
        return cls.from_loaded(loaded, open_bundle(bundle), **options)

    @classmethod
    def from_loaded(
        cls,
        loaded: LoadedModel,
        bundle: SteeringBundle,
        *,
        guard: RequestGuard | None = None,
        **options: Unpack[ClientOptions],
    ) -> SafeAudioLLM:
        """Guard what `load_model` or `wrap_model` returned; see `from_model`."""
        options = checked_options(**options)
        engine = BatchEngine(
            loaded,
            bundle,
            alpha=options.get("alpha"),
            max_batch=options.get("max_batch", 8),
        )
        return cls(engine, bundle, guard=guard, **options)

    @property
    def alpha(self) -> float:
        """Return the coefficient that the bundle names, or the client's owner.

        What a request is steered with is in its reply; `dose` says how it comes about.
        """
        return self._alpha

    @property
    def dose(self) -> DoseSpec:
        """Return how a request is steered that asks for nothing, by the policy now."""
        return self._guard.resolve(GenerationRequest(text="Hello.")).dose

    @property
    def audit(self) -> AuditLog | None:
        """Return the ledger, if one is kept."""
        recorder = self._handle.guard.recorder
        return None if recorder is None else recorder.log

    @property
    def policy(self) -> Policy:
        """Return the policy in force at this moment, overrides applied."""
        return self._handle.guard.policy

    @property
    def bundle(self) -> SteeringBundle:
        """Return the bundle in use."""
        return self._bundle

    @property
    def model_name(self) -> str:
        """Return the name that the model was loaded by."""
        return self._facts.model_name

    def health(self) -> Health:
        """Return how the client is doing, without waiting for anything."""
        queue = self._worker.queue
        return Health(
            model="closed" if self._worker.closed else "ready",
            queue_depth=len(queue),
            queue_limit=queue.limit,
            running=self._worker.running,
            ledger="none" if self.audit is None else self.audit.state,
        )

    def change_policy(self, policy: Policy, *, actor: str | None = None) -> None:
        """Put a stricter policy in force for the requests that come from now on.

        To weaken it for a while, use `override`; for good, open another client.

        Raises:
            PolicyFloorError: It is weaker somewhere than what is in force.
            ConfigurationError: It wants a ledger, and there is none.
            AuditError: The change cannot be recorded; the old policy holds.
        """
        self._handle.guard.change_policy(policy, actor=actor)

    def override(self, override: Override) -> None:
        """Set a part of the policy aside for a while, for a stated reason.

        Raises:
            PolicyOverrideError: It has expired, or breaks the policy's rules.
            AuditError: It cannot be recorded; it does not hold.
        """
        self._handle.guard.override(override)

    def generate(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **options: Unpack[GenerationOptions],
    ) -> Reply:
        """Answer one request, steered.

        Args:
            audio: One clip or a list of clips, in any form `load_audio` takes.
            text: What the user wrote; audio, text or both are needed.
            options: See `GenerationOptions`.

        Returns:
            The reply. If something failed, or steering could not be proven, its
            outcome is `error_closed` and its text is the fallback; after `timeout`
            it is `timeout`, with what was said by then.

        Raises:
            AudioError: A clip cannot be used.
            InvalidRequestError: The request makes no sense as it stands.
            PolicyFloorError: The request asks for less than the client or its policy
                holds.
            QueueFullError: Too many requests wait, and the client was opened with
                queue_full="raise".
            ClientClosedError: The client is closed.
        """
        request = GenerationRequest.build(audio, text, **options)
        return last_reply(self.send(request))

    def stream(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **options: Unpack[GenerationOptions],
    ) -> AnswerStream:
        """Answer one request in pieces; takes and raises what `generate` does.

        Returns:
            An iterator over `TextDelta` and `Refusal` events that ends with `Done`.
            A piece is there only after its steps were proven to be steered. Closing
            or dropping the iterator frees the model within one decode step.
        """
        _enter_by("stream", options)
        request = GenerationRequest.build(audio, text, **options)
        return self.send(request)

    async def agenerate(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **options: Unpack[GenerationOptions],
    ) -> Reply:
        """Answer one request without blocking the event loop; see `generate`."""
        _enter_by("agenerate", options)
        request = GenerationRequest.build(audio, text, **options)
        return await last_reply_async(self.asend(request))

    def astream(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **options: Unpack[GenerationOptions],
    ) -> AsyncAnswerStream:
        """Answer one request in pieces without blocking the event loop.

        Returns:
            An asynchronous iterator; see `stream`. The request goes in with the
            first event that is asked for, and what `stream` raises is raised there.
        """
        _enter_by("astream", options)
        request = GenerationRequest.build(audio, text, **options)
        return self.asend(request)

    def generate_batch(self, requests: Iterable[GenerationInput]) -> list[Reply]:
        """Answer many requests, together where they fit into a batch.

        Args:
            requests: The arguments of `generate`, one mapping a request; doses,
                lengths, seeds and stop strings may differ.

        Returns:
            The replies, in the order of the requests.

        Raises:
            AudioError: A clip cannot be used.
            InvalidRequestError: A request makes no sense as it stands.
        """
        states = [self._state(_batched(request)) for request in requests]
        with ExitStack() as opened:
            # All are resolved before any waits: a bad one costs the others nothing.
            for state in states:
                # Where a later one raises, those that came before it end too.
                opened.callback(state.abandon, Outcome.CANCELLED)
                state.receive()
            with self._worker.queue.expecting():
                streams = [
                    opened.enter_context(self._enter(state, wait=True))
                    for state in states
                ]
            return [last_reply(stream) for stream in streams]

    def build_request(
        self,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **options: Unpack[GenerationOptions],
    ) -> GenerationRequest:
        """Return a request for `send` or `asend`, its options checked.

        Raises:
            InvalidRequestError: An option is unknown or makes no sense.
        """
        return GenerationRequest.build(audio, text, **options)

    def send(self, request: GenerationRequest) -> AnswerStream:
        """Answer a request in pieces; see `stream`."""
        return self._enter(self._state(request), wait=self._waits)

    def asend(self, request: GenerationRequest) -> AsyncAnswerStream:
        """Answer a request in pieces without blocking the event loop."""
        state = self._state(request)

        async def enter() -> None:
            # Whatever may end the request writes a record, and writing blocks.
            await asyncio.to_thread(state.receive)
            try:
                place = self._worker.reserve(state, wait=self._waits)
                left = state.remaining()
                await asyncio.wait_for(asyncio.wrap_future(place), left)
                await asyncio.to_thread(self._take_in, state)
            except TimeoutError:
                raise
            except Exception as error:
                await asyncio.to_thread(state.refuse, error)
                raise

        return AsyncAnswerStream(state, self._worker.queue, self, enter=enter)

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
            InvalidRequestError: There is neither audio nor text.
        """
        sources = audio if isinstance(audio, list) else [audio]
        clips = self._decode(source for source in sources if source is not None)
        return self._turn(role, text, [clip.samples for clip in clips])

    def count_tokens(self, turns: Sequence[Turn]) -> list[int]:
        """Return the prompt tokens of each turn, rather too many than too few.

        Args:
            turns: A conversation, see `turn`; the last turn's number includes what
                every prompt has, and what opens the answer.
        """
        return list(self._backend.count_tokens(turns))

    def token_ids(self, text: str) -> list[int]:
        """Return a text as the model's tokenizer cuts it, without control tokens."""
        tokenizer: Any = self._backend.tokenizer
        return list(tokenizer.encode(text, add_special_tokens=False))

    @property
    def context_tokens(self) -> int | None:
        """Return how many tokens the model reads at most, prompt and answer together.

        None where the model does not say.
        """
        return self._backend.info.context_tokens

    def record_failure(
        self, error: Exception, **options: Unpack[GenerationOptions]
    ) -> None:
        """Record a request that failed before it could be asked.

        For integrations: what their own protocol refuses, such as a message that cannot
        be parsed, is then found in the ledger like every other request.

        Args:
            error: Why there was no request.
            options: What the request said of itself, such as `tenant` and `session`.

        Raises:
            AuditError: The ledger cannot be written.
        """
        request = GenerationRequest.build(None, "", **options)
        state = self._state(request)
        state.receive()
        state.refuse(error)

    def record_release(
        self, session: str, *, clips: int, size: int, tenant: str | None = None
    ) -> None:
        """Record that clips kept for a session's next requests were let go.

        Args:
            session: The session, as its requests named it.
            clips: How many.
            size: Their bytes together.
            tenant: The tenant that they named, if they did.

        Raises:
            AuditError: The ledger cannot be written.
        """
        recorder = self._handle.guard.recorder
        if recorder is not None:
            recorder.released(tenant, session, clips=clips, size=size)

    def end_session(self, session: str, *, tenant: str | None = None) -> None:
        """Forget what was kept in memory of a session that has ended.

        That is the verdicts on its requests and what the backend computed for it. What
        the ledger holds stays; a session that is erased there is forgotten here, before
        the next request of any session. A request of the session that has not ended yet
        is kept again when it does.

        Args:
            session: The session, as its requests named it.
            tenant: The tenant that they named, if they did.
        """
        self._handle.guard.forget(tenant, session)
        self._backend.forget(tenant, session)

    def as_langchain(self, **settings: Any) -> Any:  # noqa: ANN401
        """Return a LangChain chat model over this client, a `ChatSafeAudio`.

        Args:
            settings: Fields of `ChatSafeAudio`, such as `max_tokens`.

        Raises:
            MissingDependencyError: langchain-core is not installed.
            TypeError: There is no such setting.
        """
        # By name: the integration stands on the client, not the client on it.
        try:
            integration = importlib.import_module("langchain_sarguard")
        except ImportError as error:
            raise missing_extra("a chat model", "langchain", error) from error
        return integration.ChatSafeAudio.from_client(self, **settings)

    def close(self) -> None:
        """Take the guard off the model; this client answers nothing afterwards.

        Requests that wait or run end as `cancelled`.
        """
        self._shut()

    def __copy__(self) -> NoReturn:
        raise TypeError(_NO_COPY)

    def __deepcopy__(self, memo: dict[int, object]) -> NoReturn:
        raise TypeError(_NO_COPY)

    def __reduce__(self) -> NoReturn:
        raise TypeError(_NO_COPY)

    def __enter__(self) -> SafeAudioLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(self, request: GenerationRequest) -> RequestState:
        return RequestState(request, facts=self._facts, guard=self._guard)

    def _turn(
        self,
        role: Role,
        text: str,
        clips: Sequence[NDArray[np.float32]],
    ) -> Turn:
        if not clips and not text.strip():
            raise InvalidRequestError(
                f"a {role} turn with neither audio nor text: give one of them"
            )
        return Turn(role=role, text=text, audio=tuple(clips))

    def _decode(
        self, sources: Iterable[AudioSource], limits: AudioLimits | None = None
    ) -> list[Mono]:
        info = self._backend.info
        limits = limits or AudioLimits(max_seconds=info.max_audio_seconds)
        return [
            load_clip(source, sample_rate=info.sampling_rate, limits=limits)
            for source in sources
        ]

    def _enter(self, state: RequestState, *, wait: bool) -> AnswerStream:
        """Let a request into the queue, its clips decoded and the guard asked."""
        queue = self._worker.queue
        stream = AnswerStream(state, queue, self)
        state.receive()
        try:
            place = self._worker.reserve(state, wait=wait)
            place.result(state.remaining())
            self._take_in(state)
        except TimeoutError:
            state.abandon(Outcome.TIMEOUT)
            queue.release(state)
        except Exception as error:
            state.refuse(error)
            stream.close()
            raise
        except BaseException:
            stream.close()
            raise
        return stream

    def _take_in(self, state: RequestState) -> None:
        request = state.request
        resolved = state.known()
        clips = self._decode(request.audio, resolved.limits)
        newest = self._turn("user", request.text, [clip.samples for clip in clips])
        state.note(
            f"clip {number}: {clip.note}"
            for number, clip in enumerate(clips, 1)
            if clip.note is not None
        )
        resolved = fit_conversation(
            replace(resolved, turns=(*request.history, newest)),
            self._backend.info,
            count_tokens=self._backend.count_tokens,
            fallback=self._facts.fallback,
        )
        self._backend.prepare(to_backend_request(resolved))
        state.hear(resolved)
        state.admit()
        self._worker.queue.enter(state)


def _enter_by(way: str, options: dict[str, Any] | GenerationOptions) -> None:
    """Name the way in, where the caller names none."""
    if options.get("entry") is None:
        options["entry"] = way


def _batched(given: GenerationInput) -> GenerationRequest:
    options: dict[str, Any] = dict(given)
    _enter_by("batch", options)
    return GenerationRequest.build(**options)


def _guard_options(options: ClientOptions) -> GuardOptions:
    known = GuardOptions.__annotations__
    found = {name: value for name, value in options.items() if name in known}
    return found  # type: ignore[return-value]


def _shut(worker: Worker, backend: Backend, handle: GuardHandle) -> None:
    # In this order: what waits is cancelled and recorded, then steering goes, and the
    # ledger last, as both may still write to it.
    worker.close()
    backend.close()
    handle.close()


def _own_name(model: PretrainedModel) -> str:
    return getattr(model, "name_or_path", "") or type(model).__name__
