from __future__ import annotations

import pytest
import torch
from torch import nn

from sarguard.errors import UnsupportedModelError
from sarguard.models.identity import template_digest, weights_digest
from tests import tiny


def test_equal_weights_agree_across_dtypes() -> None:
    model = tiny.build().model
    expected = weights_digest(model)
    assert weights_digest(tiny.build().model) == expected
    assert weights_digest(model.bfloat16()) == expected
    assert weights_digest(model.float()) == expected


@pytest.mark.parametrize("part", ["lm_head", "audio_tower", "layers.1.mlp"])
def test_a_change_anywhere_shows(part: str) -> None:
    model = tiny.build().model
    before = weights_digest(model)
    name, changed = next((n, p) for n, p in model.named_parameters() if part in n)
    with torch.no_grad():
        changed.view(-1)[0] += 1.0
    assert weights_digest(model) != before, name


def test_the_ends_of_a_large_parameter_are_sampled() -> None:
    model = nn.Linear(1000, 1000, bias=False)
    digests = {weights_digest(model)}
    for index in (0, -1):
        with torch.no_grad():
            model.weight.view(-1)[index] += 1.0
        digests.add(weights_digest(model))
    assert len(digests) == 3


def test_shape_and_name_count() -> None:
    wide, tall = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    nn.init.ones_(wide.weight)
    nn.init.ones_(tall.weight)
    named = nn.ModuleDict({"a": wide})
    digests = {weights_digest(m) for m in (wide, tall, named)}
    assert len(digests) == 3


def test_scalars_and_empty_parameters_are_read() -> None:
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor(2.0))
    model.nothing = nn.Parameter(torch.empty(0))
    before = weights_digest(model)
    with torch.no_grad():
        model.scale.add_(1)
    assert weights_digest(model) != before


def test_offloaded_weights_cannot_be_read() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="offloaded"):
        weights_digest(model)


def test_a_template_is_told_from_another() -> None:
    first, second = tiny.build().processor, tiny.build().processor
    assert template_digest(first) == template_digest(second)
    second.chat_template += " "
    assert template_digest(first) != template_digest(second)


def test_a_processor_needs_a_template() -> None:
    processor = tiny.build().processor
    processor.chat_template = None
    with pytest.raises(UnsupportedModelError, match="no chat template"):
        template_digest(processor)
