"""A client that cannot answer unsteered."""

from __future__ import annotations

import os
import weakref
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sarguard.bundles import (
    REFERENCE,
    calibrate_now,
    choose_bundle,
    open_bundle,
    reference_path,
)
from sarguard.errors import ConfigurationError, MissingDependencyError
from sarguard.guard.factory import (
    AuditLike,
    GuardOptions,
    Opened,
    PolicyLike,
    open_guard,
)
from sarguard.guard.policy_guard import TranscriptCheck
from sarguard.models.loading import (
    DeviceMap,
    DType,
    LoadedModel,
    load_model,
    wrap_model,
)
from sarguard.models.untyped import PretrainedModel, Processor
from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override
from sarguard.serving.asking import Asking, Desk
from sarguard.serving.batch_engine import Engine
from sarguard.serving.request import Attendant
from sarguard.serving.request_state import Guarding
from sarguard.serving.worker import Worker
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import ConstantDose, Dose
from sarguard.steering.self_test import check_steering_bites
from sarguard.steering.steerer import Steerer

if TYPE_CHECKING:
    from langchain_sarguard import ChatSafeAudio

    from sarguard.audit.log import AuditLog

WhenFull: TypeAlias = Literal["wait", "raise"]

FALLBACK = DEFAULT_MESSAGES["en"][Reason.ERROR]
"""What is said where something failed, unless a policy has other words."""


class SafeAudioLLM(Asking):
    """Answer spoken and written requests behind SARSteer.

    Steering is on for every token of every answer. If it cannot be proven, the
    answer is thrown away and the reply holds the fallback text with the outcome
    `error_closed`. While the client is open, the model that it wraps refuses to be
    called directly. Requests of any number of threads and tasks share the model:
    they wait in line and are answered in batches, each as if it were alone.

    Each request is steered as strongly as its own state asks, by the rule of a tier.
    A policy says what has to hold; a ledger records each request before its first
    token and at its end.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        bundle: SteeringBundle,
        *,
        policy: PolicyLike = None,
        audit: AuditLike = None,
        tier: str | None = None,
        alpha: float | None = None,
        dose: Dose | None = None,
        fallback: str | None = None,
        transcript_check: TranscriptCheck | None = None,
        attendant: Attendant | None = None,
        max_batch: int = 8,
        max_queue: int = 64,
        queue_full: WhenFull = "wait",
    ) -> None:
        """Put a bundle on a loaded model; most callers want `from_pretrained`.

        `dose` decides each request's strength in place of a tier. `attendant` stands
        by every request in place of the policy's guard, and has to do what that does.
        """
        if queue_full not in ("wait", "raise"):
            raise ConfigurationError(
                f"queue_full is {queue_full!r}: use 'wait' or 'raise'"
            )
        if attendant is not None and (policy or audit or tier):
            raise ConfigurationError(
                "an attendant of your own was given beside a policy, a ledger or a "
                "tier: those are for the guard that it replaces"
            )
        options = GuardOptions(
            policy=policy,
            audit=audit,
            tier=tier,
            alpha=alpha,
            dose=dose,
            fallback=fallback,
            transcript_check=transcript_check,
        )
        self._bundle = bundle
        self._alpha = bundle.card.alpha if alpha is None else float(alpha)
        self._opened = open_guard(options, loaded, bundle)
        with ExitStack() as undo:
            undo.callback(self._opened.close)
            with self._opened.attaching():
                bundle.check(loaded)
                self._steerer = Steerer(
                    loaded.decoder,
                    bundle.vectors.ablated,
                    digest=bundle.card.vectors_digest,
                )
                worker = Worker(
                    Engine(loaded, self._steerer, max_batch=max_batch),
                    device=loaded.device,
                    max_batch=max_batch,
                    max_queue=max_queue,
                )
                self._steerer.attach()
                undo.callback(self._steerer.detach)
                check_steering_bites(loaded, self._steerer, alpha=self._alpha)
            undo.pop_all()
        self._desk = Desk(
            loaded=loaded,
            worker=worker,
            guarding=Guarding(
                model_name=loaded.name,
                bundle_digest=bundle.digest,
                layers=len(loaded.decoder),
            ),
            attendant=self._opened.guard if attendant is None else attendant,
            dose=ConstantDose(alpha=self._alpha) if dose is None else dose,
            fallback=FALLBACK if fallback is None else fallback,
            waits=queue_full == "wait",
        )
        # Also runs when the client is dropped, and when the interpreter exits.
        self._shut = weakref.finalize(self, _shut, worker, self._steerer, self._opened)

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | os.PathLike[str],
        *,
        bundle: str | os.PathLike[str] | SteeringBundle | None = None,
        calibrate: bool = False,
        policy: PolicyLike = None,
        audit: AuditLike = None,
        tier: str | None = None,
        alpha: float | None = None,
        device_map: DeviceMap = None,
        dtype: DType = None,
        revision: str | None = None,
        decoder_layers: str | None = None,
        fallback: str | None = None,
        transcript_check: TranscriptCheck | None = None,
        max_batch: int = 8,
        max_queue: int = 64,
        queue_full: WhenFull = "wait",
        progress: bool = True,
    ) -> SafeAudioLLM:
        """Load a model and guard it.

        Args:
            id_or_path: "reference" for the embedded model, a checkpoint directory, or
                a model id on a hub.
            bundle: Steering bundle or its directory; the reference model has its own.
            calibrate: Without a bundle, make one from the calibration clips that ship
                with sarguard. It takes minutes and is not saved.
            policy: What has to hold: a `Policy`, its file, or a preset's name. Without
                one, nothing is bounded but by the model.
            audit: The ledger, or its file, which is made if there is none.
            tier: Operating point of a request that names none: `permissive`,
                `balanced`, `strict` or `maximum`. The default is the policy's, or
                `balanced`.
            alpha: Strength of steering, above 0. Alone it is the constant dose of
                every answer, as in the paper; beside a policy or a tier it is the
                least strength.
            device_map: Passed to transformers; the default is the CPU.
            dtype: A torch dtype or "auto"; the default is the checkpoint's own.
            revision: Branch, tag or commit on the hub.
            decoder_layers: Dotted path of the text decoder's layers, for models whose
                structure does not tell.
            fallback: Text of the reply when there is no answer; a policy has its own.
            transcript_check: A second signal: takes a request's turns, their clips
                decoded, and blocks the request where it returns true.
            max_batch: Most requests that are answered together.
            max_queue: Most requests that wait.
            queue_full: Whether the next caller waits or gets a `QueueFullError`.
            progress: Show progress on stderr.

        Raises:
            ArtifactNotFoundError: There is no bundle and `calibrate` is not set.
            ArtifactMismatchError: The bundle was made for another model.
            UnsupportedModelError: The model cannot be found or cannot be guarded.
            PolicyError: The policy cannot be read, or holds more than is asked for.
            AuditError: The ledger cannot be opened.
            SteeringError: Steering did not change what the model says.
        """
        name = os.fspath(id_or_path)
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
        return cls(
            loaded,
            chosen,
            policy=policy,
            audit=audit,
            tier=tier,
            alpha=alpha,
            fallback=fallback,
            transcript_check=transcript_check,
            max_batch=max_batch,
            max_queue=max_queue,
            queue_full=queue_full,
        )

    @classmethod
    def from_model(
        cls,
        model: PretrainedModel,
        processor: Processor,
        *,
        bundle: str | os.PathLike[str] | SteeringBundle,
        policy: PolicyLike = None,
        audit: AuditLike = None,
        tier: str | None = None,
        alpha: float | None = None,
        name: str | None = None,
        decoder_layers: str | None = None,
        fallback: str | None = None,
        transcript_check: TranscriptCheck | None = None,
        max_batch: int = 8,
        max_queue: int = 64,
        queue_full: WhenFull = "wait",
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
        return cls(
            loaded,
            open_bundle(bundle),
            policy=policy,
            audit=audit,
            tier=tier,
            alpha=alpha,
            fallback=fallback,
            transcript_check=transcript_check,
            max_batch=max_batch,
            max_queue=max_queue,
            queue_full=queue_full,
        )

    @property
    def alpha(self) -> float:
        """Return the strength that the bundle names, or the client's owner."""
        return self._alpha

    @property
    def audit(self) -> AuditLog | None:
        """Return the ledger, if one is kept."""
        scribe = self._opened.scribe
        return None if scribe is None else scribe.log

    @property
    def policy(self) -> Policy:
        """Return the policy in force at this moment, overrides applied."""
        return self._opened.guard.policy

    def change_policy(self, policy: Policy, *, actor: str | None = None) -> None:
        """Put another policy in force for the requests that come from now on.

        Raises:
            ConfigurationError: It wants a ledger, and there is none.
            AuditError: The change cannot be recorded; the old policy holds.
        """
        self._opened.guard.change_policy(policy, actor=actor)

    def override(self, override: Override) -> None:
        """Set a part of the policy aside for a while, for a stated reason.

        Raises:
            PolicyOverrideError: It has expired, or breaks the policy's rules.
            AuditError: It cannot be recorded; it does not hold.
        """
        self._opened.guard.override(override)

    @property
    def bundle(self) -> SteeringBundle:
        """Return the bundle in use."""
        return self._bundle

    @property
    def model_name(self) -> str:
        """Return the name that the model was loaded by."""
        return self._desk.loaded.name

    def as_langchain(self, **settings: Any) -> ChatSafeAudio:  # noqa: ANN401
        """Return a LangChain chat model over this client.

        Args:
            settings: Fields of `ChatSafeAudio`, such as `max_tokens`.

        Raises:
            MissingDependencyError: langchain-core is not installed.
            TypeError: There is no such setting.
        """
        try:
            from langchain_sarguard import ChatSafeAudio
        except ImportError as error:
            raise MissingDependencyError(
                f"a chat model needs LangChain ({error}): "
                "pip install 'sarguard[langchain]'"
            ) from error
        return ChatSafeAudio.from_client(self, **settings)

    def close(self) -> None:
        """Take the guard off the model; this client answers nothing afterwards.

        Requests that wait or run end as `cancelled`.
        """
        self._shut()

    def __enter__(self) -> SafeAudioLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shut(worker: Worker, steerer: Steerer, opened: Opened) -> None:
    worker.close()
    steerer.detach()
    opened.close()


def _own_name(model: PretrainedModel) -> str:
    return getattr(model, "name_or_path", "") or type(model).__name__
