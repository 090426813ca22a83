"""Clients of a tiny model, and a model whose steps the test releases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from sarguard.client import SafeAudioLLM
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import SteeringBundle
from tests import tiny


class Steps:
    """Hold a model's forward passes back until the test lets them go."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.count = 0
        self.rows: list[int] = []
        self._free = threading.Event()
        self._free.set()
        self._begun = threading.Event()
        loaded.decoder.owner.register_forward_pre_hook(self._step, with_kwargs=True)

    def hold(self) -> None:
        """Stop before the next forward pass."""
        self._begun.clear()
        self._free.clear()

    def release(self) -> None:
        """Go on."""
        self._free.set()

    def wait_until_held(self) -> None:
        """Return when a forward pass is being held."""
        if not self._begun.wait(30):
            raise TimeoutError("the model was not asked")

    def _step(self, _module: object, args: tuple, kwargs: dict) -> None:
        tokens = kwargs.get("inputs_embeds")
        self.rows.append(tokens.shape[0] if tokens is not None else 0)
        self.count += 1
        self._begun.set()
        if not self._free.wait(30):
            raise TimeoutError("the test did not release the model")


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.build()


@pytest.fixture
def opened(
    loaded: LoadedModel, tiny_bundle: SteeringBundle
) -> Iterator[Callable[..., SafeAudioLLM]]:
    """Return a function that opens clients, all closed when the test ends."""
    clients: list[SafeAudioLLM] = []

    def open_client(**options: object) -> SafeAudioLLM:
        if not options.keys() & {"dose", "policy", "tier"}:
            # A tiny model's states say nothing of harm: no gate here.
            options = {"alpha": tiny_bundle.card.alpha, **options}
        clients.append(SafeAudioLLM.from_loaded(loaded, tiny_bundle, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()
    names = [thread.name for thread in threading.enumerate()]
    assert "sarguard-worker" not in names


@pytest.fixture
def steps(loaded: LoadedModel) -> Iterator[Steps]:
    made = Steps(loaded)
    yield made
    made.release()
