"""What two families need before each prompt, whoever runs them."""

from __future__ import annotations

from typing import Any

from torch import nn

from sarguard.models.layers import DecoderLayers
from sarguard.models.transformers_api import has_adapter, passed_cache
from sarguard.models.untyped import PretrainedModel

_SETTLED = "_sarguard_settled"


def settle(model: PretrainedModel, decoder: DecoderLayers) -> None:
    """Make a model's forward pass depend on its inputs alone.

    VibeVoice draws noise in its encoder even when it is not trained. Granite's
    generate() switches an adapter on for clips and off for text, its forward()
    leaves the adapter as the request before had it. The hooks stay on the model.
    """
    # A model that is loaded into two clients, one after the other, gets one hook.
    if getattr(decoder.backbone, _SETTLED, False):
        return
    kind = getattr(model.config, "model_type", "")
    if kind == "vibevoice_asr":
        decoder.backbone.register_forward_pre_hook(_without_noise, with_kwargs=True)
    elif kind in ("granite_speech", "granite_speech_plus"):
        decoder.backbone.register_forward_pre_hook(
            _AdapterSwitch(model), with_kwargs=True
        )
    setattr(decoder.backbone, _SETTLED, True)


def _without_noise(
    _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "sample": False}


class _AdapterSwitch:
    """Switch the adapter as the library's generate() does, for every new prompt."""

    def __init__(self, model: PretrainedModel) -> None:
        self._model = model

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        cache = passed_cache(args, kwargs)
        # Decode steps carry no features: their prompt has decided.
        goes_on = cache is not None and int(cache.get_seq_length()) > 0
        if goes_on or not has_adapter(self._model):
            return
        if kwargs.get("input_features") is not None:
            self._model.enable_adapters()
        else:
            self._model.disable_adapters()
