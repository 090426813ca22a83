from __future__ import annotations

from collections.abc import Iterator

import pytest

from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.steerer import Steerer
from tests import tiny


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.build()


@pytest.fixture
def steerer(loaded: LoadedModel, tiny_bundle: SteeringBundle) -> Iterator[Steerer]:
    with Steerer(loaded.decoder, tiny_bundle.vectors.ablated) as attached:
        yield attached
