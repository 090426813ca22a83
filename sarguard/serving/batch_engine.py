"""The backend of this process: one model, steered by hooks."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from sarguard.decoding import JsonGrammar, Row, decode_rows
from sarguard.decoding.request_reader import (
    WrittenBatch,
    prompt_sizes,
    read_batch,
    write_batch,
)
from sarguard.decoding.session_memory import SessionMemory
from sarguard.errors import AudioError, ConfigurationError, InvalidRequestError
from sarguard.logs import get_logger
from sarguard.models.inputs import batch_key
from sarguard.models.loading import LoadedModel
from sarguard.models.prompt_lengths import PromptLengths, context_tokens
from sarguard.models.torch_modes import ordinary_torch
from sarguard.models.untyped import Tokenizer
from sarguard.serving.backend import (
    BackendInfo,
    BackendRequest,
    BackendStep,
    GenerationJob,
    SteeringReceipt,
)
from sarguard.serving.request import SessionName
from sarguard.serving.sessions import SessionLimits, SessionStore
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.integrity import WeightsIntegrity
from sarguard.steering.self_test import run_self_test
from sarguard.steering.steerer import PassAbandonedError, Steerer
from sarguard.types import Turn, Usage

_log = get_logger(__name__)

# What is wrong with a request is for its caller to hear; all else fails closed.
_CALLERS_FAULT = (AudioError, ConfigurationError, InvalidRequestError)
_MAX_ATTEMPTS = 8
_MAX_GRAMMARS = 32


class BatchEngine:
    """A `Backend` over a loaded model; `generate` runs on one thread at a time."""

    def __init__(
        self,
        loaded: LoadedModel,
        bundle: SteeringBundle,
        *,
        alpha: float | None = None,
        max_batch: int = 8,
        sessions: SessionLimits | None = None,
    ) -> None:
        """Prepare to steer a model; `open` attaches.

        Args:
            loaded: The model.
            bundle: Its vectors and its gate.
            alpha: Steering coefficient of the self test; the default is the bundle's.
            max_batch: Most requests that are answered together.
            sessions: How much is kept between the requests of a session.
        """
        self.loaded = loaded
        self._bundle = bundle
        self._alpha = bundle.card.alpha if alpha is None else alpha
        self._max_batch = max_batch
        self._tried = max_batch
        self._steerer: Steerer | None = None
        self._weights: WeightsIntegrity | None = None
        self._sessions = SessionStore(sessions)
        # Callers' threads compile, which takes long, and the model's thread reads,
        # which must not wait for that.
        self._grammars: OrderedDict[str, JsonGrammar] = OrderedDict()
        self._compiling = threading.Lock()
        self._reading = threading.Lock()
        self._info = BackendInfo(
            model_name=loaded.name,
            revision=loaded.revision,
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=str(loaded.device),
            sampling_rate=loaded.sampling_rate,
            max_audio_seconds=loaded.max_audio_seconds,
            layers=len(loaded.decoder),
            vectors_digest=bundle.card.vectors_digest,
            context_tokens=context_tokens(loaded.model.config),
            single_audio=loaded.single_audio,
        )
        self._lengths = PromptLengths(loaded)

    @property
    def info(self) -> BackendInfo:
        """Return what it runs."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """Return what decodes its tokens."""
        return self.loaded.tokenizer

    @property
    def steerer(self) -> Steerer:
        """Return what steers.

        Raises:
            ConfigurationError: The engine is not open.
        """
        if self._steerer is None:
            raise ConfigurationError("the engine is not open: call open() first")
        return self._steerer

    @ordinary_torch()
    def open(self) -> None:
        """Attach steering and prove that it changes what the model says."""
        self._bundle.check(self.loaded)
        self._lengths.measure()
        steerer = Steerer(
            self.loaded.decoder,
            self._bundle.vectors.ablated,
            digest=self._bundle.card.vectors_digest,
        )
        steerer.attach()
        try:
            run_self_test(self.loaded, steerer, alpha=self._alpha)
        except BaseException:
            steerer.detach()
            raise
        self._steerer = steerer
        # After the self test: some quantised layers write to their weights at first.
        self._weights = WeightsIntegrity(self.loaded.model)

    def close(self) -> None:
        """Take the hooks off and drop all sessions; the model is bare again."""
        self._sessions.clear()
        if self._steerer is not None:
            self._steerer.detach()

    @ordinary_torch()
    def count_tokens(self, turns: Sequence[Turn]) -> list[int]:
        """Return how many prompt tokens each turn takes, rather too many than few."""
        return self._lengths.count(turns)

    @ordinary_torch()
    def prepare(self, request: BackendRequest) -> None:
        """Compile the request's schema, which takes about a second the first time."""
        if request.json_schema is not None:
            self._grammar(request.json_schema)

    def batch_key(self, request: BackendRequest) -> Hashable:
        """Return what requests have to share to be answered in one batch."""
        heard = batch_key(self.loaded, request.turns)
        dose = request.dose
        return heard, dose.reads_states, dose.shadow, dose.bare

    def sessions(self) -> list[SessionName]:
        """Return the sessions of whose requests something is kept."""
        return self._sessions.names()

    def forget(self, tenant: str | None, session: str) -> None:
        """Drop what was kept of a session's requests."""
        self._sessions.forget(tenant, session)

    def generate(self, jobs: Sequence[GenerationJob]) -> None:
        """Answer every request or end it otherwise; raise nothing."""
        if self.loaded.device.type == "cuda":
            # The current device is a thread's own, and this is the worker's thread.
            torch.cuda.set_device(self.loaded.device)
        try:
            for attempt in self._attempts():
                with attempt, ordinary_torch():
                    self._answer_all(jobs)
        except Exception as error:
            for job in jobs:
                job.sink.fail(error)

    def _attempts(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception(self._smaller_batch_may_cure),
            stop=stop_after_attempt(_MAX_ATTEMPTS),
            before_sleep=self._halve,
            reraise=True,
        )

    def _smaller_batch_may_cure(self, error: BaseException) -> bool:
        return is_out_of_memory(error) and self._tried > 1

    def _halve(self, state: RetryCallState) -> None:
        self._max_batch = max(1, self._tried // 2)
        self._sessions.clear()
        _log.warning("out of memory", model=self.loaded.name, max_batch=self._max_batch)
        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()

    def _answer_all(self, jobs: Sequence[GenerationJob]) -> None:
        while waiting := [job for job in jobs if not job.sink.ended]:
            self._answer_batch(waiting[: self._max_batch])

    def _answer_batch(self, batch: Sequence[GenerationJob]) -> None:
        self._tried = len(batch)
        try:
            written = write_batch(
                self.loaded,
                [job.request.turns for job in batch],
                scored=any(job.request.dose.reads_states for job in batch),
                memories=[self._memory(job.request) for job in batch],
            )
            self._check_lengths(batch, written)
        except Exception as error:
            self._answer_apart(batch, error)
            return
        self._decode(batch, written)

    def _check_lengths(
        self, batch: Sequence[GenerationJob], written: WrittenBatch
    ) -> None:
        """Refuse what is longer than the context, where it was counted too short.

        Beyond its context a model says anything, and is steered as if nothing were.
        """
        most = self._info.context_tokens
        sizes = prompt_sizes(self.loaded, written)
        for job, (length, _) in zip(batch, sizes, strict=True):
            answer = job.request.max_new_tokens
            if most is not None and length + answer > most:
                raise InvalidRequestError(
                    f"a prompt of {length} tokens and an answer of {answer} do "
                    f"not fit into the {most} that {self._info.model_name} reads: "
                    "shorten the history, the text or the clips"
                )

    def _answer_apart(self, batch: Sequence[GenerationJob], error: Exception) -> None:
        """Find out whose fault it is that a batch has no inputs."""
        if len(batch) > 1:
            for job in batch:
                self._answer_batch([job])
        elif isinstance(error, _CALLERS_FAULT):
            batch[0].sink.refuse(error)
        else:
            batch[0].sink.fail(error)

    def _decode(self, batch: Sequence[GenerationJob], written: WrittenBatch) -> None:
        answers = [_Answer(job, self._row(job.request), self._info) for job in batch]
        sizes = prompt_sizes(self.loaded, written)
        for answer, (prompt, audio) in zip(answers, sizes, strict=True):
            answer.begin(prompt, audio)

        def advance() -> None:
            for answer in answers:
                answer.advance()

        def wanted() -> bool:
            return any(not job.sink.ended for job in batch)

        try:
            if self._weights is not None:
                self._weights.check()
            with self.steerer.while_wanted(wanted):
                with self.steerer.bare():
                    read = read_batch(self.loaded, written)
                self._sessions.settle()
                decode_rows(
                    self.loaded,
                    self.steerer,
                    read.inputs,
                    [answer.row for answer in answers],
                    score=self._bundle.gate.score,
                    readings=read.readings,
                    states=read.states,
                    after_step=advance,
                )
            advance()
        except PassAbandonedError:
            # Every request has ended. What their sessions keep is written at the end
            # of a reading alone, so nothing of this one is in it.
            return
        except Exception as error:
            self._end_failed(batch, error)

    def _end_failed(self, batch: Sequence[GenerationJob], error: Exception) -> None:
        again = self._smaller_batch_may_cure(error)
        for job in batch:
            if isinstance(error, _CALLERS_FAULT):
                job.sink.refuse(error)
            elif job.sink.spoke or not again:
                # What was said cannot be taken back, so it is not said twice.
                job.sink.fail(error)
        if any(not job.sink.ended for job in batch):
            raise error

    def _memory(self, request: BackendRequest) -> SessionMemory | None:
        if request.session is None:
            return None
        if not request.reuse:
            # What was kept before the policy said so goes too.
            self._sessions.forget(request.tenant, request.session)
            return None
        return self._sessions.open(request.tenant, request.session)

    def _row(self, request: BackendRequest) -> Row:
        schema = request.json_schema
        return Row(
            dose=request.dose,
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            matcher=None
            if schema is None
            else self._grammar(schema).matcher(request.max_new_tokens),
        )

    def _grammar(self, schema: Mapping[str, Any]) -> JsonGrammar:
        """Return a compiled schema; equal schemas are compiled once."""
        try:
            # Unsorted: the order of properties is the order of the answer's.
            key = json.dumps(schema)
        except (TypeError, ValueError):
            # It cannot be written as JSON: compiling says so, and what to do.
            return JsonGrammar.compile(self.loaded, schema)
        found = self._known_grammar(key)
        if found is not None:
            return found
        with self._compiling:
            found = self._known_grammar(key)
            if found is None:
                found = JsonGrammar.compile(self.loaded, schema)
                with self._reading:
                    self._grammars[key] = found
                    if len(self._grammars) > _MAX_GRAMMARS:
                        self._grammars.popitem(last=False)
            return found

    def _known_grammar(self, key: str) -> JsonGrammar | None:
        with self._reading:
            if key in self._grammars:
                self._grammars.move_to_end(key)
            return self._grammars.get(key)


class _Answer:
    """One row of a batch, and what of it was handed on."""

    def __init__(self, job: GenerationJob, row: Row, info: BackendInfo) -> None:
        self.row = row
        self._sink = job.sink
        self._info = info
        self._pushed = 0

    def begin(self, prompt_tokens: int, audio_tokens: int) -> None:
        """Say how long the prompt is."""
        self._sink.begin(
            Usage(
                prompt_tokens=prompt_tokens, audio_tokens=audio_tokens, output_tokens=0
            )
        )

    def advance(self) -> None:
        """Hand on what the last step added."""
        if not self._sink.ended:
            self._sink.step(self._step())
        if self._sink.ended:
            self.row.end("dropped")

    def _step(self) -> BackendStep:
        row = self.row
        fresh = tuple(row.token_ids[self._pushed :])
        self._pushed += len(fresh)
        ending = None if row.ending == "dropped" else row.ending
        return BackendStep(
            token_ids=fresh,
            output_tokens=row.output_tokens,
            decision=row.decision,
            receipt=SteeringReceipt(
                steered_positions=row.steered_positions,
                layers=self._info.layers,
                vectors_digest=self._info.vectors_digest,
            ),
            divergence=row.divergence,
            ending=ending,
            fault=None if row.matcher is None else row.matcher.fault,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's memory is full."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
