"""Fixtures that every test may use."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from transformers.utils import logging as transformers_logging

from sarguard import SafeAudioLLM
from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import Recipe
from sarguard.steering.bundle import SteeringBundle
from tests.tiny import pairs, shared


@pytest.fixture(scope="session")
def tiny_bundle() -> SteeringBundle:
    """Return a bundle of the tiny Qwen2-Audio that `tests.tiny.shared` gives."""
    return calibrate(shared(), pairs(5), Recipe(rank=2), needs_refusal=False)


@pytest.fixture(scope="module")
def tiny_client(tiny_bundle: SteeringBundle) -> Iterator[SafeAudioLLM]:
    """Return a guarded client of the tiny Qwen2-Audio of `tests.tiny.shared`."""
    loaded = shared()
    with SafeAudioLLM.from_model(
        loaded.model, loaded.processor, bundle=tiny_bundle, alpha=0.1, name="tiny"
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a command line does to its process."""
    from sarguard.cli.screen import ENVIRONMENT

    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    yield
    logger = logging.getLogger("sarguard")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    transformers_logging.enable_progress_bar()
    transformers_logging.set_verbosity_warning()
