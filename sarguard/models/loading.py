"""Loading a model and its processor, and what the guard has to know about them."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from torch import nn

from sarguard.errors import MissingDependencyError, UnsupportedModelError
from sarguard.extras import missing_extra
from sarguard.models.downloads import retry_download
from sarguard.models.families import (
    THINKERS,
    UNSUPPORTED,
    audio_window_seconds,
    family_of,
    feature_extractor_of,
)
from sarguard.models.layers import DecoderLayers, find_decoder_layers
from sarguard.models.quirks import settle
from sarguard.models.torch_modes import ordinary_torch
from sarguard.models.transformers_api import (
    commit_of,
    installed_version,
    warn_if_untested,
)
from sarguard.models.untyped import (
    Config,
    PretrainedModel,
    Processor,
    Tokenizer,
)

_AUDIO_INPUTS = frozenset(
    [
        "input_features",
        "input_values",
        "audio_input_features",
        "audio_input_ids",
        "audio_values",
        "input_audio_embeds",
    ]
)


_Loader: TypeAlias = Any
Pretrained: TypeAlias = Any
DeviceMap: TypeAlias = "str | dict[str, int | str] | None"
DType: TypeAlias = "str | torch.dtype | None"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that can be guarded, with its processor."""

    model: PretrainedModel
    processor: Processor
    decoder: DecoderLayers
    sampling_rate: int
    """Samples a second that the feature extractor expects."""
    max_audio_seconds: float
    """Longest clip that reaches the model without being truncated."""
    single_audio: bool
    """Whether the family takes exactly one clip a prompt."""
    name: str
    revision: str | None = None

    @property
    def device(self) -> torch.device:
        """Return the device that inputs are put on."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the model's floating-point weights."""
        weights: list[torch.Tensor] = list(self.model.parameters())
        return next(w.dtype for w in weights if w.is_floating_point())

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the processor's tokenizer."""
        return self.processor.tokenizer


@ordinary_torch()
def load_model(
    id_or_path: str | os.PathLike[str],
    *,
    device_map: DeviceMap = None,
    dtype: DType = None,
    revision: str | None = None,
    decoder_layers: str | None = None,
    progress: bool = True,
) -> LoadedModel:
    """Load an audio-language model and its processor.

    Args:
        id_or_path: A checkpoint directory, or a model id on a hub.
        device_map: Passed to transformers; the default is the CPU.
        dtype: A torch dtype or "auto"; the default is the checkpoint's own.
        revision: Branch, tag or commit on the hub.
        decoder_layers: Dotted path of the text decoder's layer list, for models
            whose structure does not tell.
        progress: Let transformers show its bars on stderr.

    Raises:
        UnsupportedModelError: There is no such model, or it cannot be guarded.
        MissingDependencyError: The family's processor needs a missing package.
    """
    import transformers

    options: dict[str, object] = {"dtype": "auto" if dtype is None else dtype}
    if device_map is not None:
        try:
            importlib.import_module("accelerate")
        except ImportError as error:
            raise missing_extra("device_map", "accelerate", error) from error
        options["device_map"] = device_map
    name = os.fspath(id_or_path)
    config = _open(transformers.AutoConfig, name, revision)
    # By its architecture: no Auto class has Audio Flamingo or Music Flamingo, and one
    # gives Dots 3 Note without its audio.
    model_class = _resolve_class(config, name)
    # Before the weights: a model that cannot hear is refused without loading them.
    processor = _open(transformers.AutoProcessor, name, revision)
    _check_processor_takes_audio(processor, name)
    with progress_bars(shown=progress):
        model = _open(model_class, name, revision, **options)
    # The commit where a hub tells it, as a branch moves on.
    commit = commit_of(config) or revision
    return wrap_model(
        model, processor, name=name, revision=commit, decoder_layers=decoder_layers
    )


@ordinary_torch()
def wrap_model(
    model: PretrainedModel,
    processor: Processor,
    *,
    name: str,
    revision: str | None = None,
    decoder_layers: str | None = None,
) -> LoadedModel:
    """Return a model and processor that are already in memory as a `LoadedModel`.

    Raises:
        UnsupportedModelError: The model cannot be guarded.
    """
    thinker = getattr(model, "thinker", None)
    if isinstance(thinker, nn.Module):
        model = thinker
    # peft's wrapper takes any argument, so the model in it is asked what it takes.
    unwrapped = model.get_base_model() if hasattr(model, "get_base_model") else model
    _check_decoder_only(model.config, name)
    _check_model_takes_audio(type(unwrapped), name)
    _check_processor_takes_audio(processor, name)
    if not hasattr(model, "generate"):
        raise UnsupportedModelError(
            f"{name}: {type(model).__name__} has no generate(): pass the class that "
            "ends in ForConditionalGeneration, not its inner model"
        )
    warn_if_untested()
    family = family_of(model.config)
    decoder = find_decoder_layers(model, decoder_layers=decoder_layers)
    settle(unwrapped, decoder)
    return LoadedModel(
        # Dropout would change every state and every answer.
        model=model.eval(),
        processor=processor,
        decoder=decoder,
        sampling_rate=int(feature_extractor_of(processor).sampling_rate),
        max_audio_seconds=audio_window_seconds(family, processor),
        single_audio=family.single_audio,
        name=name,
        revision=revision,
    )


def _open(
    loader: _Loader, name: str, revision: str | None, **options: object
) -> Pretrained:
    try:
        return retry_download(
            lambda: loader.from_pretrained(name, revision=revision, **options)
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} needs a package that is not installed: {error}"
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UnsupportedModelError(_explain(name, error)) from error


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[None]:
    """Show or hide transformers' own progress bars inside the block."""
    from transformers.utils import logging

    if shown or not logging.is_progress_bar_enabled():
        yield
        return
    # A switch of the whole process, which is put back as it was.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _explain(name: str, error: Exception) -> str:
    path = Path(name)
    if path.is_dir():
        what = f"{name} is a directory that transformers cannot load"
        advice = "it needs config.json, the weights and the processor's files"
    elif path.exists():
        what = f"{name} is a file"
        advice = "give the checkpoint's directory"
    else:
        what = f"{name} is neither a directory here nor a model that can be fetched"
        advice = (
            "check the spelling, the network and HF_HUB_OFFLINE, or download the "
            'checkpoint and give its directory; "reference" needs no hub'
        )
    reason = str(error).strip().splitlines()
    return f"{what}: {advice} ({type(error).__name__}: {reason[0] if reason else ''})"


def _resolve_class(config: Config, name: str) -> type[nn.Module]:
    import transformers

    named = (getattr(config, "architectures", None) or [None])[0]
    if named is None:
        raise UnsupportedModelError(
            f"{name}: its config names no architecture (found model_type="
            f"{getattr(config, 'model_type', None)!r}); add `architectures` to "
            "config.json"
        )
    found: type[nn.Module] | None = getattr(
        transformers, THINKERS.get(named, named), None
    )
    if found is None:
        raise UnsupportedModelError(
            f"{name}: transformers {installed_version()} has no {named}; models "
            "with code of their own are loaded by you and given to "
            "SafeAudioLLM.from_model"
        )
    _check_decoder_only(config, name)
    _check_model_takes_audio(found, name)
    return found


def _check_decoder_only(config: Config, name: str) -> None:
    reason = UNSUPPORTED.get(getattr(config, "model_type", ""))
    if reason is not None:
        raise UnsupportedModelError(
            f"{name}: {reason}. Use an audio-language model such as Qwen2-Audio"
        )
    if _type_of(config).endswith("ForCTC"):
        raise UnsupportedModelError(
            f"{name}: {_type_of(config)} labels each frame of sound (CTC) and has no "
            "text decoder: it transcribes, it does not answer. Use an audio-language "
            "model such as Qwen2-Audio"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name}: {_type_of(config)} is an encoder-decoder: it transcribes, it "
            "does not answer. Use an audio-language model such as Qwen2-Audio"
        )


def _type_of(config: Config) -> str:
    named = getattr(config, "architectures", None) or [type(config).__name__]
    return str(named[0])


def _check_model_takes_audio(model_class: type[nn.Module], name: str) -> None:
    accepted = set(inspect.signature(model_class.forward).parameters)
    if not accepted & _AUDIO_INPUTS:
        raise UnsupportedModelError(
            f"{name}: {model_class.__name__} takes no audio: it looks like a text-only "
            "model. Use an audio-language model such as Qwen2-Audio"
        )


def _check_processor_takes_audio(processor: Processor, name: str) -> None:
    if feature_extractor_of(processor) is None:
        raise UnsupportedModelError(
            f"{name}: {type(processor).__name__} has no audio feature extractor: it "
            "looks like a text-only model. Use an audio-language model such as "
            "Qwen2-Audio, with its AutoProcessor"
        )
    if getattr(processor, "tokenizer", None) is None:
        raise UnsupportedModelError(
            f"{name}: {type(processor).__name__} has no tokenizer: it cannot take text"
        )
