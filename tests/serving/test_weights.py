"""A bundle belongs to one set of weights, for as long as a client is open."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sarguard.client import SafeAudioLLM
from sarguard.errors import SteeringRemovedError
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.integrity import WeightsIntegrity
from sarguard.types import Outcome
from tests import tiny


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.build()


@pytest.fixture
def client(
    loaded: LoadedModel, tiny_bundle: SteeringBundle, tmp_path: Path
) -> Iterator[SafeAudioLLM]:
    audit = tmp_path / "audit.db"
    with SafeAudioLLM.from_loaded(loaded, tiny_bundle, audit=audit) as client:
        yield client


def down(model: nn.Module) -> nn.Linear:
    """Return one of the text decoder's matrices."""
    named = dict(model.named_modules())
    (name,) = [n for n in named if n.endswith("layers.1.mlp.down_proj")]
    found = named[name]
    assert isinstance(found, nn.Linear)
    return found


@torch.no_grad()
def scale(model: nn.Module) -> None:
    down(model).weight.mul_(1.5)


def scale_data(model: nn.Module) -> None:
    down(model).weight.data.mul_(1.5)


def cast(model: nn.Module) -> None:
    model.to(torch.bfloat16)


def swap(model: nn.Module) -> None:
    linear = down(model)
    linear.weight = nn.Parameter(copy.deepcopy(linear.weight.detach()))


def load_state(model: nn.Module) -> None:
    state = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    model.load_state_dict(state, strict=False)


def train(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(down(model).parameters(), lr=0.1)
    down(model).weight.grad = torch.ones_like(down(model).weight)
    optimizer.step()


@pytest.mark.parametrize("change", [scale, scale_data, cast, swap, load_state, train])
def test_weights_that_changed_are_not_answered_with(
    client: SafeAudioLLM, loaded: LoadedModel, change: Callable[[nn.Module], None]
) -> None:
    assert client.generate(text="Hi.", max_new_tokens=2).outcome is Outcome.ANSWERED
    change(loaded.model)
    # What torch does not see is found within as many requests as there are turns.
    most = 16 if change is scale_data else 1
    replies = [client.generate(text="Hi.", max_new_tokens=2) for _ in range(most)]
    closed = [r for r in replies if r.outcome is Outcome.ERROR_CLOSED]
    assert closed
    assert "the weights are not those that the bundle was made for" in (
        closed[0].guard.fault or ""
    )
    assert client.audit is not None
    kinds = [entry.values["kind"] for entry in client.audit.entries()]
    assert "integrity_failed" in kinds


def test_weights_that_did_not_change_are(client: SafeAudioLLM) -> None:
    for _ in range(20):
        reply = client.generate(text="Hi.", max_new_tokens=2)
        assert reply.outcome is Outcome.ANSWERED


def test_a_model_made_in_inference_mode_is_watched_too() -> None:
    with torch.inference_mode():
        model = nn.Linear(8, 8)
    watched = WeightsIntegrity(model)
    for _ in range(16):
        watched.check()
    with torch.inference_mode():
        model.weight.mul_(1.5)

    def check_all() -> None:
        for _ in range(16):
            watched.check()

    with pytest.raises(SteeringRemovedError, match="weight holds other values"):
        check_all()
