from __future__ import annotations

import itertools
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sarguard.reference.training.features import collate
from sarguard.reference.training.hearing import pooled
from sarguard.reference.training.lookup import (
    GAIN,
    SILENCE_LENGTH,
    THRESHOLD,
    LookupEncoder,
    align,
)
from tests.reference.training.students import Student, clips, student


@pytest.fixture
def made() -> Student:
    return student(layers=1)


def features(made: Student) -> tuple[Tensor, Tensor]:
    return collate([made.preprocessor.features(clip, None) for clip in clips()])


def said(made: Student) -> list[Tensor]:
    return [made.preprocessor.tokens(clip.text) for clip in clips()]


@torch.no_grad()
def test_a_unit_holds_how_much_likelier_than_silence_its_token_is(
    made: Student,
) -> None:
    encoder = made.encoder()
    layers = list(encoder.tower.layers)
    states, _ = encoder.states(*features(made), layers)
    scores = encoder.scores(encoder.project(states))
    lookup = made.lookup()
    units = lookup.layer.fc1(lookup.layer.final_layer_norm(pooled(states)))
    expected = scores[..., 1:] - scores[..., :1] - THRESHOLD
    torch.testing.assert_close(units, expected, atol=1e-3, rtol=1e-4)


def speak(lookup: LookupEncoder, loud: dict[int, float]) -> Tensor:
    """Return the frame that is made where some units hold what is given."""
    units = torch.zeros(1, 2, lookup.layer.fc1.out_features)
    for unit, value in loud.items():
        units[..., unit] = value
    state = torch.randn(1, 2, lookup.layer.fc2.out_features)
    with torch.no_grad():
        return lookup.project(state + lookup.layer.fc2(units))[0, 0]


def test_a_unit_that_speaks_alone_says_its_tokens_embedding(made: Student) -> None:
    lookup = made.lookup()
    torch.manual_seed(0)
    space = lookup.blank
    for unit in (0, 7, 20):
        frame, token = speak(lookup, {unit: 9.0}), lookup.targets[unit]
        towards = torch.cosine_similarity(frame - space, token - space, dim=0)
        if torch.equal(token, space):
            continue
        # It leans towards silence by what silence weighs.
        assert towards > 0.97
        nearest = lookup.scores(frame[None, None]).argmax()
        assert int(nearest) == unit + 1


def test_where_no_unit_speaks_a_space_is_said(made: Student) -> None:
    lookup = made.lookup()
    torch.manual_seed(0)
    apart = (speak(lookup, {}) - lookup.blank).norm()
    tokens = (lookup.targets - lookup.blank).norm(dim=-1)
    assert float(apart) < 0.1 * float(tokens.mean())
    assert float(lookup.layer.fc2.bias.norm()) == pytest.approx(GAIN * SILENCE_LENGTH)


def test_the_training_hears_what_the_model_says(made: Student) -> None:
    lookup = made.lookup()
    heard = lookup.training_output(*features(made), said(made))
    with torch.no_grad():
        frames, counts = lookup.encode(*features(made))
    torch.testing.assert_close(heard.frames, frames, atol=1e-4, rtol=1e-4)
    assert heard.counts.tolist() == counts.tolist()
    some = lookup.training_output(
        *features(made), said(made), rows=torch.tensor([2, 0])
    )
    torch.testing.assert_close(some.frames, frames[[2, 0]], atol=1e-4, rtol=1e-4)


def test_what_is_trained_is_the_body_and_the_units(made: Student) -> None:
    lookup = made.lookup()
    heard = lookup.training_output(*features(made), said(made))
    (heard.ctc + heard.gap).backward()
    trained = [
        *chain(*lookup.parameter_groups()),
    ]
    assert {id(p) for p in lookup.parameters() if p.requires_grad} == {
        id(p) for p in trained
    }
    moved = [p.grad is not None and bool(p.grad.any()) for p in trained]
    assert sum(moved) > 0.8 * len(moved)


def test_frames_that_say_what_is_due_have_no_gap(made: Student) -> None:
    lookup = made.lookup()
    own = torch.tensor([3, 5])
    due = torch.zeros(2, 4, 3)
    for row, classes in enumerate(((1, 0, 2, 0), (0, 2, 0, 0))):
        due[row, range(4), classes] = 1.0
    classes = torch.cat([lookup.blank[None], lookup.targets[own]])
    rows, counts = torch.tensor([0, 1]), torch.tensor([4, 3])
    exact = due @ classes
    assert float(lookup._embedding_gap(exact, (due, own), rows, counts)) == 0
    wrong = exact.clone()
    wrong[1, 3] += 1.0
    assert float(lookup._embedding_gap(wrong, (due, own), rows, counts)) == 0, (
        "past its end"
    )
    wrong[1, 1] += 1.0
    assert float(lookup._embedding_gap(wrong, (due, own), rows, counts)) > 0


def test_the_alignment_is_that_of_every_path_weighed() -> None:
    torch.manual_seed(0)
    steps, classes, target = 5, 3, (1, 2)
    shares = torch.randn(steps, 1, classes).log_softmax(-1).requires_grad_()
    expected = torch.zeros(steps, classes)
    for path in itertools.product(range(classes), repeat=steps):
        spoken = tuple(c for c, _ in itertools.groupby(path) if c)
        if spoken == target:
            likely = shares[range(steps), 0, path].sum().exp().detach()
            expected[range(steps), path] += likely
    total = expected[0].sum()
    loss, due = align(
        shares, torch.tensor(target), torch.tensor([steps]), torch.tensor([2])
    )
    assert float(loss.detach()) == pytest.approx(-float(total.log()), abs=1e-4)
    torch.testing.assert_close(due[:, 0], expected / total, atol=1e-4, rtol=1e-4)


def test_the_units_are_kept_with_the_head(made: Student, tmp_path: Path) -> None:
    lookup, path = made.lookup(), tmp_path / "head.safetensors"
    with torch.no_grad():
        for parameter in lookup.units.parameters():
            parameter.add_(0.25)
    lookup.save_head(path, made.preprocessor.vocabulary)
    other = student(layers=1).lookup()
    assert not torch.equal(other.layer.fc1.bias, lookup.units.linear()[1])
    other.load_head(path)
    torch.testing.assert_close(other.layer.fc1.weight, lookup.units.linear()[0])
    torch.testing.assert_close(other.layer.fc1.bias, lookup.units.linear()[1])


def test_only_what_can_be_said_is_trained_on(made: Student) -> None:
    preprocessor = made.preprocessor
    strange = [SimpleNamespace(text="feed the cat"), SimpleNamespace(text="ÄÖ!")]
    assert [clip.text for clip in preprocessor.sayable(strange)] == ["feed the cat"]
