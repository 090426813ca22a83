"""The layers of a model's text decoder.

The search is structural: every list of blocks that own an attention or a mixer is a
candidate, evidence from the module tree and the config ranks them, and the best has to
agree with the config. A tie or a disagreement is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from sarguard.errors import UnsupportedModelError
from sarguard.models.untyped import Config

_MIXERS = frozenset(
    [
        "self_attn",
        "attn",
        "attention",
        "self_attention",
        "mixer",
        "linear_attn",
        "mamba",
        "attention_layer",
        "token_mixer",
        "temporal_block",
    ]
)
_EMBEDDINGS = frozenset(["embed_tokens", "wte", "tok_embeddings", "word_embeddings"])
_FINAL_NORMS = frozenset(
    ["norm", "final_layernorm", "ln_f", "final_layer_norm", "norm_f", "layer_norm"]
)
# Parts of a model that are made of attention blocks as well.
_FOREIGN = re.compile(
    "audio|speech|sound|vision|visual|image|video|whisper|encoder|tower|talker|"
    "token2wav|codec|codebook|depth|projector|adapter|adaptor|connector|qformer|"
    "q_former|perceiver|resampler|vocoder|flow|diffusion|prediction_head|embed|mtp|"
    "nextn|draft|tokenizer|vq|tts|dvae|apm|vpm|beats|conformer|diar|timestamp|mimo"
)

# More than all the evidence together, which is 75 at most. A number in a path means a
# list inside of another list's block.
_FOREIGN_PENALTY = 100
_NESTING_PENALTY = 30
_STRONG, _FAIR, _WEAK = 20, 10, 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecoderLayers:
    """The layers of a model's text decoder, and the modules around them."""

    path: str
    """Dotted path of the layer list, for messages; bundles store indices only."""
    layers: tuple[nn.Module, ...]
    backbone: nn.Module
    """Smallest module that runs every layer when called with built inputs."""
    owner: nn.Module
    """Module whose forward runs the layers, with the cache as an argument."""
    root: nn.Module
    """The whole model."""
    hidden_size: int
    streams: int = 1
    """Parallel residual streams that a layer returns, the active one first (AltUp)."""

    def __len__(self) -> int:
        return len(self.layers)


def find_decoder_layers(
    model: nn.Module, *, decoder_layers: str | None = None
) -> DecoderLayers:
    """Find the text decoder's layers.

    Args:
        model: A transformers model, or one laid out like it.
        decoder_layers: Dotted path of the layer list, to settle what structure
            cannot.

    Raises:
        UnsupportedModelError: Nothing fits, two lists fit equally well, or the
            list that fits best disagrees with the model's config.
    """
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder: it transcribes, it does "
            "not answer. Use an audio-language model with a decoder-only text model"
        )
    text_config = _text_config(config)
    # Not held to the config: naming the list is the way out where the two disagree.
    if decoder_layers is not None:
        stack = _explicit(model, decoder_layers)
        return _describe(model, decoder_layers, stack, text_config)
    path, stack = _best(model, text_config)
    _check_against_config(path, stack, text_config)
    return _describe(model, path, stack, text_config)


def residual_width(block: nn.Module) -> int | None:
    """Return the width of the residual stream that a block reads and writes."""
    # The block's own norms come first: norms inside its attention may be narrower.
    for name, module in (*block.named_children(), *block.named_modules()):
        weight = getattr(module, "weight", None)
        if "norm" in name.lower() and weight is not None and weight.dim() == 1:
            return int(weight.shape[0])
    for module in block.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
    return None


def _text_config(config: Config) -> Config:
    get = getattr(config, "get_text_config", None)
    # An audio model's config holds one for its text decoder, under a name of its own.
    return config if get is None else get(decoder=True)


def _best(model: nn.Module, text_config: Config) -> tuple[str, nn.ModuleList]:
    ranked = sorted(
        (
            (_score(model, path, stack, text_config), path)
            for path, stack in _stacks(model)
        ),
        reverse=True,
    )
    found = ", ".join(f"{path or '(root)'} (score {s})" for s, path in ranked[:4])
    advice = 'name the list yourself with decoder_layers="dotted.path"'
    if not ranked or ranked[0][0] <= 0:
        raise UnsupportedModelError(
            f"no text-decoder layers in {type(model).__name__}; "
            f"found: {found or 'no list of attention blocks'}; {advice}"
        )
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        raise UnsupportedModelError(
            f"two lists of blocks in {type(model).__name__} fit equally well: "
            f"{found}; {advice}"
        )
    path = ranked[0][1]
    return path, dict(_stacks(model))[path]


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            children = ({name for name, _ in b.named_children()} for b in module)
            if all(names & _MIXERS for names in children):
                yield path, module


def _score(
    model: nn.Module, path: str, stack: nn.ModuleList, text_config: Config
) -> int:
    segments = path.lower().split(".")
    owner = model.get_submodule(path.rpartition(".")[0])
    children = {name for name, _ in owner.named_children()}
    embeddings = named_module(model, "get_input_embeddings")
    hosts_embeddings = any(m is embeddings for m in owner.modules())
    return (
        _STRONG * (len(stack) == getattr(text_config, "num_hidden_layers", None))
        + _STRONG * bool(children & _EMBEDDINGS)
        + _STRONG * (embeddings is not None and hosts_embeddings)
        + _FAIR * (residual_width(stack[0]) == _hidden_size(text_config))
        + _WEAK * bool(children & _FINAL_NORMS)
        - _FOREIGN_PENALTY * bool(_FOREIGN.search(path.lower()))
        - _NESTING_PENALTY * sum(segment.isdigit() for segment in segments)
    )


def named_module(model: nn.Module, getter: str) -> nn.Module | None:
    """Return the module that a getter of a model returns, or None.

    Args:
        model: The model.
        getter: `get_input_embeddings` or `get_output_embeddings`.
    """
    get = getattr(model, getter, None)
    try:
        found = None if get is None else get()
    # What transformers raises where a model does not say.
    except NotImplementedError:
        return None
    return found if isinstance(found, nn.Module) else None


def _hidden_size(text_config: Config) -> int | None:
    return getattr(text_config, "hidden_size", None)


def _check_against_config(path: str, stack: nn.ModuleList, text_config: Config) -> None:
    layers = getattr(text_config, "num_hidden_layers", None)
    found = (len(stack), residual_width(stack[0]))
    expected = (layers, _hidden_size(text_config))
    if found != expected:
        raise UnsupportedModelError(
            f"{path} has {found[0]} layers of width {found[1]}, but the config says "
            f"{expected[0]} of width {expected[1]}; name the right list with "
            'decoder_layers="dotted.path"'
        )


def _explicit(model: nn.Module, path: str) -> nn.ModuleList:
    try:
        stack = model.get_submodule(path)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"decoder_layers={path!r} is not in {type(model).__name__}: {error}"
        ) from error
    if not isinstance(stack, nn.ModuleList) or len(stack) == 0:
        raise UnsupportedModelError(
            f"decoder_layers={path!r} is a {type(stack).__name__}: "
            "it has to be a ModuleList that is not empty"
        )
    return stack


def _describe(
    model: nn.Module, path: str, stack: nn.ModuleList, text_config: Config
) -> DecoderLayers:
    width = residual_width(stack[0])
    if width is None:
        raise UnsupportedModelError(
            f"cannot tell the width of the blocks in {path}: no norm, no linear layer"
        )
    return DecoderLayers(
        path=path,
        layers=tuple(stack),
        backbone=_backbone(model, stack),
        owner=model.get_submodule(path.rpartition(".")[0]),
        root=model,
        hidden_size=width,
        streams=_streams(text_config),
    )


def _streams(text_config: Config) -> int:
    if getattr(text_config, "altup_active_idx", 0) != 0:
        raise UnsupportedModelError(
            f"altup_active_idx is {text_config.altup_active_idx}: only models whose "
            "first stream is the active one are supported"
        )
    return int(getattr(text_config, "altup_num_inputs", 1))


def _backbone(model: nn.Module, stack: nn.ModuleList) -> nn.Module:
    inner = getattr(model, "model", None)
    # Without `lm_head`, which would compute logits of every position. A model that is
    # laid out otherwise is run whole.
    if (
        isinstance(inner, nn.Module)
        and hasattr(model, "lm_head")
        and any(module is stack for module in inner.modules())
    ):
        return inner
    return model
