"""A guard that lets everything pass, and a backend without a model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from sarguard.client import FALLBACK, SafeAudioLLM
from sarguard.guard.effective_policy import NO_POLICY
from sarguard.serving.backend import (
    BackendInfo,
    BackendRequest,
    BackendStep,
    GenerationJob,
    SteeringReceipt,
)
from sarguard.serving.request import GenerationRequest
from sarguard.serving.request_guard import Findings, ResolvedRequest, Screening
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import DoseSpec
from sarguard.types import Reply, Turn, Usage


class OpenGuard:
    """A `RequestGuard` that decides and records nothing."""

    screens = False

    def resolve(self, request: GenerationRequest) -> ResolvedRequest:
        return ResolvedRequest(
            request=request,
            policy=NO_POLICY,
            tier=None,
            dose=DoseSpec.constant(request.alpha or 0.1),
            fallback=FALLBACK,
            max_new_tokens=request.max_new_tokens,
            timeout=request.timeout,
        )

    def before_model(self, resolved: ResolvedRequest) -> Findings:
        return Findings()

    def record_start(self, resolved: ResolvedRequest, found: Findings) -> Findings:
        return found

    def screen(
        self, resolved: ResolvedRequest, found: Findings, text: str, *, final: bool
    ) -> Screening:
        return Screening(findings=found)

    def after_model(
        self,
        request: GenerationRequest,
        resolved: ResolvedRequest | None,
        found: Findings,
        reply: Reply,
        error: Exception | None = None,
    ) -> Reply:
        return reply


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))


class FakeBackend:
    """A `Backend` of plain Python that says what it is told to.

    It imports no torch and knows no model: client, guard and ledger need no more.
    """

    tokenizer = Letters()

    def __init__(
        self,
        says: str,
        *,
        vectors_digest: str,
        layers: int,
        score: float = -1.0,
        context_tokens: int | None = None,
        single_audio: bool = False,
    ) -> None:
        self.says = says
        self.score = score
        self.asked: list[BackendRequest] = []
        self.skips_steering = False
        """Whether its receipts miss a position."""
        self.forgets = False
        """Whether it returns without ending anything."""
        self.forgotten: list[tuple[str | None, str]] = []
        self.opened = self.closed = False
        self.info = BackendInfo(
            model_name="fake",
            revision=None,
            dtype="int8",
            device="nowhere",
            sampling_rate=16_000,
            max_audio_seconds=30.0,
            layers=layers,
            vectors_digest=vectors_digest,
            context_tokens=context_tokens,
            single_audio=single_audio,
        )

    def open(self) -> None:
        self.opened = True

    def close(self) -> None:
        self.closed = True

    def count_tokens(self, turns: Sequence[Turn]) -> list[int]:
        """Count a token a character, and 25 a second of sound."""
        return [
            len(turn.text) + sum(clip.size for clip in turn.audio) // 640
            for turn in turns
        ]

    def prepare(self, request: BackendRequest) -> None:
        """Accept every request."""

    def sessions(self) -> list[tuple[str | None, str]]:
        return []

    def forget(self, tenant: str | None, session: str) -> None:
        self.forgotten.append((tenant, session))

    def batch_key(self, request: BackendRequest) -> Hashable:
        return None

    def generate(self, jobs: Sequence[GenerationJob]) -> None:
        for job in jobs:
            self.asked.append(job.request)
            if not self.forgets:
                self._answer(job)

    def _answer(self, job: GenerationJob) -> None:
        dose = DoseSpec.from_dict(job.request.dose.to_dict())
        decision = dose.decide(self.score)
        job.sink.begin(Usage(prompt_tokens=7, audio_tokens=0, output_tokens=0))
        if decision.blocked:
            job.sink.step(BackendStep(decision=decision, ending="blocked"))
            return
        words = self.says[: job.request.max_new_tokens]
        for count, letter in enumerate(words, start=1):
            if job.sink.ended:
                return
            job.sink.step(
                BackendStep(
                    token_ids=(ord(letter),),
                    output_tokens=count,
                    decision=decision,
                    receipt=SteeringReceipt(
                        steered_positions=count - self.skips_steering,
                        layers=self.info.layers,
                        vectors_digest=self.info.vectors_digest,
                    ),
                    ending="length" if count == len(words) else None,
                )
            )


OpenFake: TypeAlias = Callable[..., tuple[SafeAudioLLM, FakeBackend]]


@contextmanager
def opening(bundle: SteeringBundle, says: str) -> Iterator[OpenFake]:
    """Yield what opens clients over fake backends, and close them at the end."""
    with ExitStack() as opened:

        def open_client(
            says: str = says,
            **options: Any,  # noqa: ANN401
        ) -> tuple[SafeAudioLLM, FakeBackend]:
            backend = FakeBackend(
                says,
                vectors_digest=bundle.card.vectors_digest,
                layers=bundle.card.layers,
            )
            if not options.keys() & {"policy", "tier", "dose"}:
                options = {"alpha": 0.1, **options}
            client = opened.enter_context(SafeAudioLLM(backend, bundle, **options))
            return client, backend

        yield open_client
