"""From a backend's tokens to what the caller hears.

Nothing goes out before its receipt was checked and the output checks have passed.
"""

from __future__ import annotations

from sarguard.decoding.detokenizer import AnswerText
from sarguard.decoding.json_grammar import declines
from sarguard.errors import NonFiniteActivationError, SteeringNotAppliedError
from sarguard.models.untyped import Tokenizer
from sarguard.refusal import is_refusal, may_begin_refusal
from sarguard.serving.backend import BackendInfo, BackendStep
from sarguard.serving.request import GenerationRequest
from sarguard.serving.request_state import RequestState
from sarguard.steering.dose import Decision
from sarguard.types import FinishReason, Outcome, Usage

_ALPHA_TOLERANCE = 1e-6


class OutputProcessor:
    """The `TokenSink` of one request."""

    def __init__(
        self, state: RequestState, info: BackendInfo, tokenizer: Tokenizer
    ) -> None:
        self._state = state
        self._info = info
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer, state.request.stop)
        self._pushed = 0
        self._said = 0
        self._decision: Decision | None = None
        """The decision that was held to the request's dose."""

    @property
    def ended(self) -> bool:
        """Return whether the request wants no more tokens."""
        return self._state.settled

    @property
    def spoke(self) -> bool:
        """Return whether a part of the answer left."""
        return self._state.spoke

    def begin(self, usage: Usage) -> None:
        """Note that the prompt is about to be read, for the first time or again."""
        self._text = AnswerText(self._tokenizer, self._state.request.stop)
        self._pushed = self._said = 0
        self._state.begin(usage)

    def step(self, step: BackendStep) -> None:
        """Say what a step added, and end what has to end."""
        state = self._state
        if state.remaining() == 0:
            state.abandon(Outcome.TIMEOUT)
        if state.settled:
            return
        try:
            self._check_receipt(step)
            state.take(step)
            self._pass_on(step)
        except Exception as error:
            # The other rows of the batch have nothing to do with it.
            state.fail(error)

    def fail(self, error: Exception) -> None:
        """End without an answer, because something went wrong."""
        self._state.fail(error)

    def refuse(self, error: Exception) -> None:
        """End with an error that is the caller's, and is raised there."""
        self._state.refuse(error)

    def _check_receipt(self, step: BackendStep) -> None:
        self._pushed += len(step.token_ids)
        if not step.output_tokens and not self._pushed:
            return
        decision, receipt = step.decision, step.receipt
        if decision is None or receipt is None:
            raise SteeringNotAppliedError(
                f"{step.output_tokens} token(s) came without a decision or a receipt: "
                "the backend cannot prove that they are steered"
            )
        if self._pushed > step.output_tokens:
            raise SteeringNotAppliedError(
                f"{self._pushed} token(s) came, and the receipt is for "
                f"{step.output_tokens}"
            )
        if decision is not self._decision:
            self._check_decision(decision)
            self._decision = decision
        # A bare answer, which only a policy in shadow mode asks for, promises nothing.
        expected = 0 if decision.bare else step.output_tokens
        found = (receipt.steered_positions, receipt.layers, receipt.vectors_digest)
        if found != (expected, self._info.layers, self._info.vectors_digest):
            raise SteeringNotAppliedError(
                f"{step.output_tokens} output token(s) need {expected} steered "
                f"position(s) on {self._info.layers} layers by vectors "
                f"{self._info.vectors_digest[:12]}, the receipt says {found[0]} on "
                f"{found[1]} by {found[2][:12]}"
            )

    def _check_decision(self, decision: Decision) -> None:
        """Hold a decision to what the dose decides on its score."""
        wanted = self._state.known().dose.decide(decision.score)
        # An engine may compute in float32; NaN is never enough.
        enough = decision.alpha >= wanted.alpha * (1 - _ALPHA_TOLERANCE)
        blocked = decision.blocked or wanted.blocked
        drawn = decision.greedy_tokens < wanted.greedy_tokens
        if blocked or not enough or drawn or decision.bare != wanted.bare:
            raise SteeringNotAppliedError(
                f"the backend decided {decision} and sent a token, the request's dose "
                f"decides {wanted}"
            )

    def _pass_on(self, step: BackendStep) -> None:
        for token in step.token_ids:
            self._text.push(token)
        self._say(final=False)
        ends = step.ending is not None or self._text.stopped
        if ends and not self._state.settled:
            self._end(step)

    def _say(self, *, final: bool) -> None:
        """Say what the output checks let out of the text so far."""
        state, text = self._state, self._text.text
        hold = 0
        if state.guard.screens and (final or len(text) > self._said):
            screened = state.guard.screen(
                state.known(), state.findings, text, final=final
            )
            state.findings = screened.findings
            if screened.findings.error is not None:
                raise screened.findings.error
            if screened.findings.block is not None:
                state.block(screened.findings.block.reason)
                return
            hold = screened.hold
        # What was said cannot be taken back, whatever a check would hold now.
        end = max(self._said, len(text) - hold)
        state.say(text[self._said : end])
        self._said = end

    def _end(self, step: BackendStep) -> None:
        state = self._state
        if step.ending == "blocked":
            score = None if step.decision is None else step.decision.score
            state.block(f"the request's score {score} is above the limit")
        elif step.ending == "unhealthy":
            raise NonFiniteActivationError(
                "a steered state holds NaN or infinity: lower alpha, or load the "
                "model in bfloat16 or float32"
            )
        elif step.fault is not None:
            raise RuntimeError(f"the schema was not followed: {step.fault}")
        elif step.ending not in (None, "stop", "length"):
            raise RuntimeError(f"the backend ended the answer with {step.ending!r}")
        else:
            self._text.finish()
            self._say(final=True)
            stopped = step.ending == "stop" or self._text.stopped
            reason: FinishReason = "stop" if stopped else "length"
            # Of what the model said, whatever a stop string cut off.
            whole, request = self._text.whole, state.request
            refused = declined(request, whole)
            cut = step.ending == "length" or self._text.stopped
            unclear = cut and request.json_schema is None and may_begin_refusal(whole)
            state.answer(
                Outcome.REFUSED if refused else Outcome.ANSWERED,
                reason,
                cut_short=unclear and not refused,
            )


def declined(request: GenerationRequest, text: str) -> bool:
    """Return whether what a model said to a request is a refusal."""
    # JSON may hold the words of others; its grammar tells a refusal by itself.
    tells = is_refusal if request.json_schema is None else declines
    return tells(text)
