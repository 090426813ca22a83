"""A client that cannot answer unsteered."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
import torch

from sarguard.audio import AudioLimits, load_audio
from sarguard.bundles import (
    REFERENCE,
    calibrate_now,
    choose_bundle,
    open_bundle,
    reference_path,
)
from sarguard.conversation import (
    GuardReport,
    Reply,
    Role,
    Timings,
    Turn,
    Usage,
)
from sarguard.errors import (
    ConfigurationError,
    SteeringError,
)
from sarguard.generation import Decoded, Sampling, guarded_decode
from sarguard.models.inputs import audio_token_counts, build_inputs
from sarguard.models.loading import (
    DeviceMap,
    DType,
    LoadedModel,
    load_model,
    wrap_model,
)
from sarguard.models.untyped import PretrainedModel, Processor
from sarguard.outcome import Outcome
from sarguard.refusal import is_refusal
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.canary import check_steering_bites
from sarguard.steering.steerer import Steerer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sarguard.audio import AudioSource

FALLBACK = "I can't answer that right now. Please try again later."

_log = structlog.get_logger(__name__)


class SafeAudioLLM:
    """Answer spoken and written requests behind SARSteer.

    Steering is on for every token of every answer. If it cannot be proven, the
    answer is thrown away and the reply holds the fallback text with the outcome
    `error_closed`. While the client is open, the model that it wraps refuses to be
    called directly. Requests from several threads take turns.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        bundle: SteeringBundle,
        *,
        alpha: float | None = None,
        fallback: str = FALLBACK,
    ) -> None:
        """Put a bundle on a loaded model; most callers want `from_pretrained`."""
        bundle.check(loaded)
        self._loaded = loaded
        self._bundle = bundle
        self._alpha = bundle.card.alpha if alpha is None else float(alpha)
        self._fallback = fallback
        self._lock = threading.Lock()
        self._steerer = Steerer(
            loaded.decoder, bundle.vectors.ablated, digest=bundle.card.vectors_digest
        )
        self._steerer.attach()
        try:
            check_steering_bites(loaded, self._steerer, alpha=self._alpha)
        except BaseException:
            self._steerer.detach()
            raise

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
            fallback: Text of the reply when an answer was thrown away.
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
        return cls(loaded, chosen, alpha=alpha, fallback=fallback)

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
        return cls(loaded, open_bundle(bundle), alpha=alpha, fallback=fallback)

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
        return self._loaded.name

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
        seed: int | None = None,
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
            seed: Makes sampling repeatable.

        Returns:
            The reply. If steering could not be proven, its outcome is `error_closed`
            and its text is the fallback.

        Raises:
            AudioError: A clip cannot be used.
            ConfigurationError: The request makes no sense as it stands.
        """
        started = time.perf_counter()
        sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
        turns = [
            *([] if system is None else [Turn(role="system", text=system)]),
            *history,
            self.turn("user", text=text, audio=audio),
        ]
        with self._lock:
            self._check_open()
            request = self._prepare(turns, started)
            try:
                decoded = guarded_decode(
                    self._loaded,
                    self._steerer,
                    request.inputs,
                    alpha=self._alpha,
                    max_new_tokens=max_new_tokens,
                    sampling=sampling,
                )[0]
            except SteeringError as error:
                return self._throw_away(request, error)
            return self._reply(request, decoded)

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
        sources = audio if isinstance(audio, list) else [audio]
        clips = tuple(self._hear(source) for source in sources if source is not None)
        if not clips and not text.strip():
            raise ConfigurationError(
                f"a {role} turn with neither audio nor text: give one of them"
            )
        return Turn(role=role, text=text, audio=clips)

    def close(self) -> None:
        """Take the guard off the model; this client answers nothing afterwards."""
        with self._lock:
            self._steerer.detach()

    def __enter__(self) -> SafeAudioLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hear(self, source: AudioSource) -> NDArray[np.float32]:
        limits = AudioLimits(max_seconds=self._loaded.max_audio_seconds)
        return load_audio(source, sample_rate=self._loaded.sampling_rate, limits=limits)

    def _check_open(self) -> None:
        if not self._steerer.attached:
            raise ConfigurationError(
                "this client is closed: load the model again to ask more"
            )

    def _prepare(self, turns: Sequence[Turn], started: float) -> _Request:
        inputs = build_inputs(self._loaded, [turns])
        return _Request(
            inputs=inputs,
            prompt_tokens=int(inputs["input_ids"].shape[1]),
            audio_tokens=audio_token_counts(self._loaded, inputs)[0],
            started=started,
            prepared_s=time.perf_counter() - started,
        )

    def _reply(self, request: _Request, decoded: Decoded) -> Reply:
        text = self._loaded.tokenizer.decode(
            decoded.token_ids, skip_special_tokens=True
        ).strip()
        return Reply(
            text=text,
            outcome=Outcome.REFUSED if is_refusal(text) else Outcome.ANSWERED,
            finish_reason=decoded.finish_reason,
            usage=request.usage(decoded.output_tokens),
            timings=request.timings(prefill_s=decoded.prefill_s),
            guard=self._report(steered_positions=decoded.steered_positions),
        )

    def _throw_away(self, request: _Request, error: SteeringError) -> Reply:
        fault = f"{type(error).__name__}: {error}"
        _log.error("answer thrown away", model=self._loaded.name, fault=fault)
        return Reply(
            text=self._fallback,
            outcome=Outcome.ERROR_CLOSED,
            finish_reason="error",
            usage=request.usage(0),
            timings=request.timings(prefill_s=0.0),
            guard=self._report(steered_positions=0, fault=fault),
        )

    def _report(
        self, *, steered_positions: int, fault: str | None = None
    ) -> GuardReport:
        return GuardReport(
            alpha=self._alpha,
            bundle_digest=self._bundle.digest,
            steered_positions=steered_positions,
            layers=len(self._loaded.decoder),
            fault=fault,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    inputs: dict[str, torch.Tensor]
    prompt_tokens: int
    audio_tokens: int
    started: float
    prepared_s: float

    def usage(self, output_tokens: int) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            audio_tokens=self.audio_tokens,
            output_tokens=output_tokens,
        )

    def timings(self, *, prefill_s: float) -> Timings:
        return Timings(
            prefill_s=prefill_s,
            first_token_s=self.prepared_s + prefill_s if prefill_s else 0.0,
            total_s=time.perf_counter() - self.started,
        )


def _own_name(model: PretrainedModel) -> str:
    return getattr(model, "name_or_path", "") or type(model).__name__
