from __future__ import annotations

import pytest
import torch

from sarguard.errors import ArtifactFormatError, ConfigurationError
from sarguard.steering.gate import Gate


def test_states_of_another_model_are_refused() -> None:
    gate = Gate(directions=torch.ones(3, 10), offsets=torch.zeros(3), first_layer=3)
    with pytest.raises(ConfigurationError, match="layers 3 to 5"):
        gate.score(torch.zeros(5, 2, 10))
    with pytest.raises(ConfigurationError, match="width 10"):
        gate.score(torch.zeros(6, 2, 11))


def test_a_gate_on_disk_has_to_be_whole() -> None:
    with pytest.raises(ArtifactFormatError, match="directions"):
        Gate(directions=torch.ones(2, 3), offsets=torch.ones(3), first_layer=0)
    with pytest.raises(ArtifactFormatError, match="finite"):
        Gate(
            directions=torch.full((2, 3), float("nan")),
            offsets=torch.ones(2),
            first_layer=0,
        )
