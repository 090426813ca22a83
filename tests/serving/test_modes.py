"""A client answers, or says at opening why not, whatever mode torch is in."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch

from sarguard.client import SafeAudioLLM
from sarguard.errors import ConfigurationError
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Reply
from tests import tiny

ASKED: dict[str, Any] = {
    "audio": (tiny.clip(0.5), tiny.RATE),
    "text": "Hi.",
    "max_new_tokens": 4,
}
Mode = Callable[[], AbstractContextManager[object]]
MODES: dict[str, Mode] = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.build()


@pytest.fixture
def expected(tiny_bundle: SteeringBundle) -> Reply:
    with SafeAudioLLM.from_loaded(tiny.build(), tiny_bundle) as client:
        return client.generate(**ASKED)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_is_opened_in_any_mode(
    loaded: LoadedModel, tiny_bundle: SteeringBundle, expected: Reply, mode: str
) -> None:
    with MODES[mode]():
        client = SafeAudioLLM.from_loaded(loaded, tiny_bundle)
    with client:
        reply = client.generate(**ASKED)
        assert (reply.text, reply.outcome) == (expected.text, Outcome.ANSWERED)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_is_asked_in_any_mode(
    loaded: LoadedModel, tiny_bundle: SteeringBundle, expected: Reply, mode: str
) -> None:
    with SafeAudioLLM.from_loaded(loaded, tiny_bundle) as client, MODES[mode]():
        for session in (None, "call", "call"):
            assert client.generate(**ASKED, session=session).text == expected.text


@pytest.mark.parametrize("mode", MODES)
def test_a_model_is_wrapped_in_any_mode(
    loaded: LoadedModel, tiny_bundle: SteeringBundle, expected: Reply, mode: str
) -> None:
    model, processor = loaded.model, loaded.processor
    name = loaded.name
    with (
        MODES[mode](),
        SafeAudioLLM.from_model(
            model, processor, bundle=tiny_bundle, name=name
        ) as client,
    ):
        assert client.generate(**ASKED).text == expected.text


def test_a_client_is_opened_in_a_thread(
    loaded: LoadedModel, tiny_bundle: SteeringBundle, expected: Reply
) -> None:
    opened: list[SafeAudioLLM] = []

    def run() -> None:
        with torch.inference_mode():
            opened.append(SafeAudioLLM.from_loaded(loaded, tiny_bundle))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    with opened[0] as client:
        assert client.generate(**ASKED).text == expected.text


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (default_dtype(torch.float64), "default dtype is torch.float64"),
        (default_dtype(torch.bfloat16), "default dtype is torch.bfloat16"),
        (default_device("meta"), "default device is meta"),
    ],
    ids=["float64", "bfloat16", "meta"],
)
def test_a_default_that_processors_cannot_work_with_is_named(
    loaded: LoadedModel,
    tiny_bundle: SteeringBundle,
    changed: AbstractContextManager[None],
    says: str,
) -> None:
    with changed, pytest.raises(ConfigurationError, match=says):
        SafeAudioLLM.from_loaded(loaded, tiny_bundle)


def test_a_default_that_changes_later_is_named_in_the_reply(
    loaded: LoadedModel, tiny_bundle: SteeringBundle
) -> None:
    with SafeAudioLLM.from_loaded(loaded, tiny_bundle) as client:
        with (
            default_dtype(torch.float64),
            pytest.raises(ConfigurationError, match="float64"),
        ):
            client.generate(**ASKED)
        assert client.generate(**ASKED).outcome is Outcome.ANSWERED


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_cannot_be_copied_and_answers_on(
    loaded: LoadedModel,
    tiny_bundle: SteeringBundle,
    way: Callable[[object], object],
) -> None:
    with SafeAudioLLM.from_loaded(loaded, tiny_bundle) as client:
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            way(client)
        assert client.generate(**ASKED).outcome is Outcome.ANSWERED


def test_modes_are_as_they_were_afterwards() -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), nullcontext():
        tiny.build()
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
