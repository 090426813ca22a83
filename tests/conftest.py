"""Fixtures that every test may use."""

from __future__ import annotations

import pytest

from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.making import make_bundle
from sarguard.steering.recipe import Recipe
from tests.tiny import pairs, shared


@pytest.fixture(scope="session")
def tiny_bundle() -> SteeringBundle:
    """Return a bundle of the tiny Qwen2-Audio that `tests.tiny.shared` gives."""
    return make_bundle(shared(), pairs(5), Recipe(rank=2))
