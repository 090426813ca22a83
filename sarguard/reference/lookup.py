"""The lookup: one more encoder layer, whose feed-forward part is a dictionary.

The states of Whisper's encoder identify the token that was said; the text model needs
that token's embedding. A linear map of 384 dimensions cannot turn one into the other
for thousands of rare tokens. The last layer therefore has no attention, and one hidden
unit a token: the first matrix computes how much likelier than silence the token is, in
nats, the second holds the token's embedding.

All layers of the encoder share one feed-forward width. The others are padded with
zeros, which does not change what they compute.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def append_lookup(model: PreTrainedModel, tokens: int) -> None:
    """Append a layer to a model's encoder that does nothing until it is filled.

    Args:
        model: A Qwen2-Audio model; changed in place.
        tokens: Hidden units of the layer, one a token.
    """
    import torch
    from transformers.models.qwen2_audio.modeling_qwen2_audio import (
        Qwen2AudioEncoderLayer,
    )

    tower = _tower(model)
    config = copy.deepcopy(tower.config)
    config.encoder_ffn_dim = tokens
    like = tower.layers[-1].fc1.weight
    layer = Qwen2AudioEncoderLayer(config).to(like.device, like.dtype)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            scales = name.endswith("layer_norm.weight")
            parameter.fill_(1.0 if scales else 0.0)
    tower.layers.append(layer.train(tower.training))
    tower.config.encoder_layers = len(tower.layers)


def pad_feed_forward(model: PreTrainedModel) -> None:
    """Pad every layer's feed-forward part to the widest, and update the config.

    Args:
        model: A Qwen2-Audio model; changed in place.
    """
    tower = _tower(model)
    width = max(layer.fc1.out_features for layer in tower.layers)
    for layer in tower.layers:
        layer.fc1 = _padded(layer.fc1, layer.fc1.in_features, width)
        layer.fc2 = _padded(layer.fc2, width, layer.fc2.out_features)
    for config in (tower.config, model.config.audio_config):
        config.encoder_layers, config.encoder_ffn_dim = len(tower.layers), width


def _tower(model: PreTrainedModel) -> Any:  # noqa: ANN401
    parts: Any = model
    return parts.model.audio_tower


def _padded(linear: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer padded with zeros to a larger size."""
    from torch import nn
    from torch.nn.functional import pad

    weight, bias = linear.weight.detach(), linear.bias.detach()
    rows, columns = outputs - linear.out_features, inputs - linear.in_features
    wide = nn.Linear(inputs, outputs, device="meta")
    wide.weight = nn.Parameter(pad(weight, (0, columns, 0, rows)))
    wide.bias = nn.Parameter(pad(bias, (0, rows)))
    return wide.train(linear.training)
