"""Answering a batch of requests, and giving each what it has coming."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

import structlog
import torch
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from sarguard.decoding import Row, decode_rows
from sarguard.decoding.detokenizer import AnswerText
from sarguard.decoding.json_grammar import declines
from sarguard.errors import (
    AudioError,
    ConfigurationError,
    NonFiniteActivationError,
)
from sarguard.models.inputs import audio_token_counts, batch_key, build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.refusal import is_refusal
from sarguard.serving.request_state import Ticket
from sarguard.steering.steerer import Steerer
from sarguard.types import FinishReason, Outcome, Usage

_log = structlog.get_logger(__name__)

# What is wrong with a request is for its caller to hear; all else fails closed.
_CALLERS_FAULT = (AudioError, ConfigurationError)
_MOST_ATTEMPTS = 8


class Engine:
    """Answer requests with one model; only ever from one thread at a time."""

    def __init__(
        self, loaded: LoadedModel, steerer: Steerer, *, max_batch: int
    ) -> None:
        self._loaded = loaded
        self._steerer = steerer
        self._most = max_batch
        self._tried = max_batch

    def batch_key(self, ticket: Ticket) -> Hashable:
        """Return what requests have to share to be answered in one batch."""
        heard = batch_key(self._loaded, ticket.asked.turns)
        dose = ticket.asked.dose
        return heard, dose.reads_states, dose.compares, dose.bare

    def answer(self, tickets: Sequence[Ticket]) -> None:
        """Answer every request or end it otherwise; raise nothing."""
        for ticket in tickets:
            ticket.marks.picked = time.perf_counter()
        try:
            for attempt in self._attempts():
                with attempt:
                    self._answer_all(tickets)
        except Exception as error:
            for ticket in tickets:
                ticket.fail(error)

    def _attempts(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception(self._smaller_batch_may_cure),
            stop=stop_after_attempt(_MOST_ATTEMPTS),
            before_sleep=self._halve,
            reraise=True,
        )

    def _smaller_batch_may_cure(self, error: BaseException) -> bool:
        return is_out_of_memory(error) and self._tried > 1

    def _halve(self, state: RetryCallState) -> None:
        self._most = max(1, self._tried // 2)
        _log.warning("out of memory", model=self._loaded.name, max_batch=self._most)
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()

    def _answer_all(self, tickets: Sequence[Ticket]) -> None:
        while waiting := [ticket for ticket in tickets if not ticket.settled]:
            self._answer_batch(waiting[: self._most])

    def _answer_batch(self, batch: Sequence[Ticket]) -> None:
        self._tried = len(batch)
        try:
            inputs = build_inputs(self._loaded, [t.asked.turns for t in batch])
        except Exception as error:
            self._answer_apart(batch, error)
            return
        counts = audio_token_counts(self._loaded, inputs)
        mask = inputs["attention_mask"]
        for ticket, prompt, audio in zip(batch, mask.sum(dim=1), counts, strict=True):
            ticket.usage = Usage(
                prompt_tokens=int(prompt), audio_tokens=audio, output_tokens=0
            )
        self._decode(batch, inputs)

    def _answer_apart(self, batch: Sequence[Ticket], error: Exception) -> None:
        """Find out whose fault it is that a batch has no inputs."""
        if len(batch) > 1:
            for ticket in batch:
                self._answer_batch([ticket])
        elif isinstance(error, _CALLERS_FAULT):
            batch[0].refuse(error)
        else:
            batch[0].fail(error)

    def _decode(self, batch: Sequence[Ticket], inputs: dict[str, torch.Tensor]) -> None:
        answers = [Answer(ticket, self._loaded) for ticket in batch]

        def advance() -> None:
            for answer in answers:
                answer.advance()

        for ticket in batch:
            ticket.marks.prefill = time.perf_counter()
        try:
            decode_rows(
                self._loaded,
                self._steerer,
                inputs,
                [answer.row for answer in answers],
                after_step=advance,
            )
            advance()
        except Exception as error:
            self._end_failed(batch, error)

    def _end_failed(self, batch: Sequence[Ticket], error: Exception) -> None:
        again = self._smaller_batch_may_cure(error)
        for ticket in batch:
            if isinstance(error, _CALLERS_FAULT):
                ticket.refuse(error)
            elif ticket.spoke or not again:
                # What was said cannot be taken back, so it is not said twice.
                ticket.fail(error)
        if any(not ticket.settled for ticket in batch):
            raise error


class Answer:
    """Turn one row's tokens into what its caller hears."""

    def __init__(self, ticket: Ticket, loaded: LoadedModel) -> None:
        grammar = ticket.asked.grammar
        self.row = Row(
            dose=ticket.asked.dose,
            max_new_tokens=ticket.asked.max_new_tokens,
            sampling=ticket.asked.sampling,
            follows=None if grammar is None else grammar.begin(),
        )
        self._ticket = ticket
        self._text = AnswerText(loaded.tokenizer, ticket.asked.stop)
        self._pushed = 0

    def advance(self) -> None:
        """Say what the last step added, and end what has to end."""
        if self._ticket.remaining() == 0:
            self._ticket.abandon(Outcome.TIMEOUT)
        if not self._ticket.settled:
            try:
                self._pass_on()
            except Exception as error:
                # The other rows of the batch have nothing to do with it.
                self._ticket.fail(error)
        if self._ticket.settled:
            self.row.end("dropped")

    def _pass_on(self) -> None:
        self._note()
        self._say()
        if self.row.ending is not None:
            self._end()

    def _note(self) -> None:
        ticket, row = self._ticket, self.row
        ticket.decision = row.decision
        ticket.steered_positions = row.steered_positions
        ticket.divergence = row.divergence
        if row.output_tokens and ticket.marks.first_token is None:
            ticket.marks.first_token = time.perf_counter()
        ticket.usage = Usage(
            prompt_tokens=ticket.usage.prompt_tokens,
            audio_tokens=ticket.usage.audio_tokens,
            output_tokens=row.output_tokens,
        )

    def _say(self) -> None:
        fresh = self.row.token_ids[self._pushed :]
        self._pushed += len(fresh)
        for token in fresh:
            self._ticket.say(self._text.push(token))
        if self._text.stopped:
            self.row.end("stop")

    def _end(self) -> None:
        ending, ticket = self.row.ending, self._ticket
        if ending == "blocked":
            score = None if self.row.decision is None else self.row.decision.score
            ticket.block(f"the request's score {score} is above the limit")
        elif ending == "unhealthy":
            ticket.fail(
                NonFiniteActivationError(
                    "a steered state holds NaN or infinity: lower alpha, or load the "
                    "model in bfloat16 or float32"
                )
            )
        elif self.row.follows is not None and self.row.follows.fault is not None:
            ticket.fail(
                RuntimeError(f"the schema was not followed: {self.row.follows.fault}")
            )
        else:
            ticket.say(self._text.finish())
            reason: FinishReason = "length"
            if ending == "stop" or self._text.stopped:
                reason = "stop"
            refused = self._refused()
            ticket.answer(Outcome.REFUSED if refused else Outcome.ANSWERED, reason)

    def _refused(self) -> bool:
        # JSON may hold the words of others; its grammar tells a refusal by itself.
        tells = is_refusal if self.row.follows is None else declines
        return tells(self._text.text)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's memory is full."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
