"""A client that cannot answer unsteered."""

from __future__ import annotations

import os
import weakref
from dataclasses import replace
from typing import Literal, TypeAlias

from sarguard.bundles import (
    REFERENCE,
    calibrate_now,
    choose_bundle,
    open_bundle,
    reference_path,
)
from sarguard.errors import ConfigurationError
from sarguard.models.loading import (
    DeviceMap,
    DType,
    LoadedModel,
    load_model,
    wrap_model,
)
from sarguard.models.untyped import PretrainedModel, Processor
from sarguard.serving.asked import Attendant, NoAttendant
from sarguard.serving.asking import Asking, Desk
from sarguard.serving.engine import Engine
from sarguard.serving.ticket import Guarding
from sarguard.serving.transient import retry_download
from sarguard.serving.worker import Worker
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.canary import check_steering_bites
from sarguard.steering.dose import ConstantDose, Dose
from sarguard.steering.steerer import Steerer

WhenFull: TypeAlias = Literal["wait", "raise"]

FALLBACK = "I can't answer that right now. Please try again later."


class SafeAudioLLM(Asking):
    """Answer spoken and written requests behind SARSteer.

    Steering is on for every token of every answer. If it cannot be proven, the
    answer is thrown away and the reply holds the fallback text with the outcome
    `error_closed`. While the client is open, the model that it wraps refuses to be
    called directly. Requests of any number of threads and tasks share the model:
    they wait in line and are answered in batches, each as if it were alone.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        bundle: SteeringBundle,
        *,
        alpha: float | None = None,
        dose: Dose | None = None,
        fallback: str = FALLBACK,
        attendant: Attendant | None = None,
        max_batch: int = 8,
        max_queue: int = 64,
        queue_full: WhenFull = "wait",
    ) -> None:
        """Put a bundle on a loaded model; most callers want `from_pretrained`.

        `dose` decides each request's strength in place of `alpha`, which the check
        at load still uses; `attendant` stands by every request.
        """
        if queue_full not in ("wait", "raise"):
            raise ConfigurationError(
                f"queue_full is {queue_full!r}: use 'wait' or 'raise'"
            )
        bundle.check(loaded)
        self._bundle = bundle
        self._alpha = bundle.card.alpha if alpha is None else float(alpha)
        self._steerer = Steerer(
            loaded.decoder, bundle.vectors.ablated, digest=bundle.card.vectors_digest
        )
        worker = Worker(
            Engine(loaded, self._steerer, max_batch=max_batch),
            device=loaded.device,
            max_batch=max_batch,
            max_queue=max_queue,
        )
        self._desk = Desk(
            loaded=loaded,
            worker=worker,
            guarding=Guarding(
                model_name=loaded.name,
                bundle_digest=bundle.digest,
                layers=len(loaded.decoder),
            ),
            attendant=NoAttendant() if attendant is None else attendant,
            dose=ConstantDose(alpha=self._alpha) if dose is None else dose,
            fallback=fallback,
            waits=queue_full == "wait",
        )
        self._steerer.attach()
        try:
            check_steering_bites(loaded, self._steerer, alpha=self._alpha)
        except BaseException:
            self._steerer.detach()
            raise
        # Also runs when the client is dropped, and when the interpreter exits.
        self._shut = weakref.finalize(self, _shut, worker, self._steerer)

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | os.PathLike[str],
        *,
        bundle: str | os.PathLike[str] | SteeringBundle | None = None,
        calibrate: bool = False,
        alpha: float | None = None,
        device_map: DeviceMap = None,
        dtype: DType = None,
        revision: str | None = None,
        decoder_layers: str | None = None,
        fallback: str = FALLBACK,
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
            alpha: Dose, above 0; the default is the bundle's.
            device_map: Passed to transformers; the default is the CPU.
            dtype: A torch dtype or "auto"; the default is the checkpoint's own.
            revision: Branch, tag or commit on the hub.
            decoder_layers: Dotted path of the text decoder's layers, for models whose
                structure does not tell.
            fallback: Text of the reply when there is no answer.
            max_batch: Most requests that are answered together.
            max_queue: Most requests that wait.
            queue_full: Whether the next caller waits or gets a `QueueFullError`.
            progress: Show progress on stderr.

        Raises:
            ArtifactNotFoundError: There is no bundle and `calibrate` is not set.
            ArtifactMismatchError: The bundle was made for another model.
            UnsupportedModelError: The model cannot be found or cannot be guarded.
            SteeringError: Steering did not change what the model says.
        """
        name = os.fspath(id_or_path)
        chosen = choose_bundle(name, bundle, calibrate=calibrate)
        path = reference_path(progress=progress) if name == REFERENCE else name
        loaded = retry_download(
            lambda: load_model(
                path,
                device_map=device_map,
                dtype=dtype,
                revision=revision,
                decoder_layers=decoder_layers,
                progress=progress,
            )
        )
        loaded = replace(loaded, name=name)
        if chosen is None:
            chosen = calibrate_now(loaded, progress=progress)
        return cls(
            loaded,
            chosen,
            alpha=alpha,
            fallback=fallback,
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
        alpha: float | None = None,
        name: str | None = None,
        decoder_layers: str | None = None,
        fallback: str = FALLBACK,
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
            alpha=alpha,
            fallback=fallback,
            max_batch=max_batch,
            max_queue=max_queue,
            queue_full=queue_full,
        )

    @property
    def alpha(self) -> float:
        """Return the dose of every request."""
        return self._alpha

    @property
    def bundle(self) -> SteeringBundle:
        """Return the bundle in use."""
        return self._bundle

    @property
    def model_name(self) -> str:
        """Return the name that the model was loaded by."""
        return self._desk.loaded.name

    def close(self) -> None:
        """Take the guard off the model; this client answers nothing afterwards.

        Requests that wait or run end as `cancelled`.
        """
        self._shut()

    def __enter__(self) -> SafeAudioLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shut(worker: Worker, steerer: Steerer) -> None:
    worker.close()
    steerer.detach()


def _own_name(model: PretrainedModel) -> str:
    return getattr(model, "name_or_path", "") or type(model).__name__
