from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sarguard.reference.lookup import append_lookup, pad_feed_forward
from tests import tiny


@pytest.fixture
def model() -> tiny.Model:
    torch.manual_seed(0)
    return tiny.qwen2_audio(layers=1)[0]


@torch.no_grad()
def frames(model: tiny.Model) -> torch.Tensor:
    torch.manual_seed(1)
    features = torch.randn(2, 80, 3000)
    return model.model.audio_tower(features).last_hidden_state


def test_an_empty_lookup_changes_nothing(model: tiny.Model) -> None:
    before = frames(model)
    append_lookup(model, 100)
    torch.testing.assert_close(frames(model), before)
    assert model.config.audio_config.encoder_layers == 2


def test_filled_up_layers_compute_the_same(model: tiny.Model, tmp_path: Path) -> None:
    append_lookup(model, 100)
    layer = model.model.audio_tower.layers[-1]
    with torch.no_grad():
        for parameter in (*layer.fc1.parameters(), *layer.fc2.parameters()):
            parameter.normal_(std=0.2)
    before = frames(model)
    pad_feed_forward(model)
    torch.testing.assert_close(frames(model), before)
    assert model.config.audio_config.encoder_ffn_dim == 100
    widths = {layer.fc1.out_features for layer in model.model.audio_tower.layers}
    assert widths == {100}

    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(frames(again), before)


def test_a_model_that_is_even_stays_as_it_is(model: tiny.Model) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pad_feed_forward(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
