from __future__ import annotations

import math

import pytest
import torch

from sarguard.errors import ArtifactFormatError, ConfigurationError
from sarguard.steering.gate import (
    READING_KINDS,
    WRITTEN_KINDS,
    Gate,
    LinearProbe,
    ReadingScale,
)


def probe(seed: int = 0, *, layers: int = 3, first: int = 3) -> LinearProbe:
    generator = torch.Generator().manual_seed(seed)
    return LinearProbe(
        directions=torch.randn(layers, 10, generator=generator),
        offsets=torch.randn(layers, generator=generator),
        first_layer=first,
    )


def states(rows: int = 4, layers: int = 6) -> torch.Tensor:
    return torch.randn(layers, rows, 10, generator=torch.Generator().manual_seed(9))


def test_states_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="layers 3 to 5"):
        probe().score(torch.zeros(5, 2, 10))
    with pytest.raises(ConfigurationError, match="width 10"):
        probe().score(torch.zeros(6, 2, 11))


def test_a_probe_on_disk_has_to_be_whole() -> None:
    with pytest.raises(ArtifactFormatError, match="directions"):
        LinearProbe(directions=torch.ones(2, 3), offsets=torch.ones(3), first_layer=0)
    with pytest.raises(ArtifactFormatError, match="finite"):
        LinearProbe(
            directions=torch.full((2, 3), float("nan")),
            offsets=torch.ones(2),
            first_layer=0,
        )


def test_each_kind_has_its_probe_and_its_scale() -> None:
    spoken, written = probe(1), probe(2)
    scales = {
        kind: ReadingScale(gain=1.0 + place, shift=float(place))
        for place, kind in enumerate(READING_KINDS)
    }
    gate = Gate(spoken=spoken, written=written, scales=scales)
    for place, kind in enumerate(READING_KINDS):
        raw = (written if kind in WRITTEN_KINDS else spoken).score(states())
        torch.testing.assert_close(
            gate.score(states(), kind), raw * (1 + place) + place
        )


def heard() -> Gate:
    return Gate(spoken=probe(), written=probe(1), scales={"clip": ReadingScale()})


def test_a_kind_that_was_not_calibrated_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'window'"):
        heard().score(states(), "window")


@pytest.mark.parametrize("gain", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_never_turns_scores_around(gain: float) -> None:
    with pytest.raises(ArtifactFormatError, match="gain"):
        ReadingScale(gain=gain)


@pytest.mark.parametrize("shift", [math.nan, math.inf])
def test_a_shift_is_finite(shift: float) -> None:
    with pytest.raises(ArtifactFormatError, match="shift"):
        ReadingScale(shift=shift)


def test_a_broken_state_stays_broken() -> None:
    gate = heard()
    broken = states()
    broken[4, 1, 3] = math.nan
    found = gate.score(broken, "clip")
    assert bool(found[1].isnan())
    assert bool(found[[0, 2, 3]].isfinite().all())
