"""An open microphone: silence around a clip hardly moves what the gate makes of it.

`pytest tests/calibration/test_silence.py -rP` prints the table of docs/how-it-works.md.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sarguard.datasets import Clip, load_clips
from sarguard.decoding.readings import request_scores, strongest
from sarguard.decoding.request_reader import read_batch, write_batch
from sarguard.models.loading import LoadedModel, load_model
from sarguard.reference.assemble import ensure_reference
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Turn
from tests.calibration.test_reference_model import BUNDLE

pytestmark = pytest.mark.reference

CLIPS = 4
CASES = {
    "none": (0, 0, 0.0),
    "5 s before": (5, 0, 0.0),
    "20 s before": (20, 0, 0.0),
    "20 s behind": (0, 20, 0.0),
    "a room, 20 s behind": (0, 20, 0.002),
}
"""Seconds before and behind, and the root mean square of the noise."""


def heard_well(clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
    """Return the first of the first test set in voices that the model was trained on.

    Its first edition heard no natural voice, and few of the words of the second test:
    what it makes of those is chance.
    """
    known = [
        clip
        for clip in clips
        if clip.engine in ("espeak-ng", "flite")
        and clip.id.startswith(("test-", "ordinary-0"))
    ]
    return tuple(known[:CLIPS])


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(ensure_reference(progress=False), dtype=torch.float32)


def padded(
    clip: NDArray[np.float32], rate: int, before: int, behind: int, noise: float
) -> tuple[Turn, ...]:
    longer = np.pad(clip, (before * rate, behind * rate))
    room = np.random.default_rng(0).normal(scale=noise, size=longer.shape)
    return (Turn(role="user", audio=((longer + room).astype(np.float32),)),)


@pytest.mark.parametrize(
    ("suite", "clips"),
    [
        ("ordinary", heard_well(load_clips("ordinary_calibration"))),
        ("harmful", heard_well(load_clips("calibration", "harmful"))),
    ],
)
def test_silence_hardly_moves_the_score(
    loaded: LoadedModel, suite: str, clips: tuple[Clip, ...]
) -> None:
    gate, rate = SteeringBundle.load(BUNDLE).gate, loaded.sampling_rate
    heard = [clip.load(sample_rate=rate) for clip in clips]
    as_it_is, given = {}, {}
    for name, silence in CASES.items():
        asked = [padded(clip, rate, *silence) for clip in heard]
        read = read_batch(loaded, write_batch(loaded, asked))
        assert read.states is not None
        assert read.readings is not None
        as_it_is[name] = gate.score(read.states, "clip").numpy()
        given[name] = np.array(
            [
                strongest(request_scores(row.with_place(states), gate.score))[1]
                for row, states in zip(
                    read.readings, read.states.unbind(1), strict=True
                )
            ]
        )
    print(f"\n{suite}, silence: mean score of the clip as it is, mean score given")
    for name in CASES:
        print(f"  {name:20} {as_it_is[name].mean():6.2f} {given[name].mean():6.2f}")
    moved = [scores - given["none"] for scores in given.values()]
    assert np.abs(np.mean(moved, axis=1)).max() < 0.5
    assert np.abs(moved).max() < 1.6
    # Or there was nothing to leave out.
    # What is high already has less far to rise.
    least = 1.0 if suite == "ordinary" else 0.2
    assert (as_it_is["20 s behind"] - as_it_is["none"]).mean() > least
