from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sarguard.reference.difference import apply_difference, save_difference
from sarguard.reference.training.adapters import SCALE, TARGETS, Adapters, LoraLinear
from tests.reference.training.students import student
from tests.tiny import Model

LAYERS = 2
IDS = torch.tensor([[5, 9, 30, 31, 77, 120]])


def logits(model: Model) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def trained(model: Model, seed: int = 1) -> Adapters:
    """Return adapters that do something, with numbers that float16 holds."""
    adapters = Adapters(model.model.language_model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters():
        noise = 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.data = noise.half().float()
    return adapters


@pytest.fixture
def model() -> Model:
    return student(layers=LAYERS).model


def test_untrained_adapters_change_nothing(model: Model) -> None:
    base = logits(model)
    adapters = Adapters(model.model.language_model)
    assert torch.equal(logits(model), base)
    assert len(adapters.by_path) == LAYERS * len(TARGETS)
    assert len(list(adapters.parameters())) == 2 * LAYERS * len(TARGETS)


def test_switched_off_is_exactly_the_base(model: Model) -> None:
    base = logits(model)
    adapters = trained(model)
    assert not torch.allclose(logits(model), base, atol=1e-2)
    with adapters.disabled():
        assert torch.equal(logits(model), base)
    assert not torch.allclose(logits(model), base, atol=1e-2)


def test_they_are_on_again_after_a_fault(model: Model) -> None:
    adapters = trained(model)
    adapted = logits(model)
    with pytest.raises(RuntimeError, match="inside"), adapters.disabled():
        raise RuntimeError("inside")
    assert torch.equal(logits(model), adapted)


def test_what_is_kept_can_be_loaded(model: Model) -> None:
    tensors = trained(model).tensors()
    other = student(layers=LAYERS).model
    Adapters(other.model.language_model).load(tensors)
    assert torch.equal(logits(other), logits(model))
    assert not any(value.requires_grad for value in tensors.values())


def test_merged_they_say_the_same(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "difference.safetensors"
    save_difference(path, trained(model).tensors(), {"lora_scale": str(SCALE)})
    merged = student(layers=LAYERS).model
    base = logits(merged)
    apply_difference(merged, path)
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(merged), base, atol=1e-2)


def test_an_adapter_lies_where_its_layer_lies() -> None:
    adapted = LoraLinear(nn.Linear(4, 6, device="meta"))
    assert adapted.lora_A.device.type == "meta"
    assert adapted.lora_B.device.type == "meta"
