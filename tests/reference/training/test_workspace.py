"""The sentences of the true training, from the true bases."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sarguard.datasets import load_sentences, load_texts
from sarguard.reference.training.corpus import normalise
from sarguard.reference.training.workspace import (
    HELD_OUT,
    RENDERINGS,
    UNITS,
    Sentences,
    Workspace,
)

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("school"), torch.device("cpu"))


@pytest.fixture(scope="module")
def lines(workspace: Workspace) -> Sentences:
    return workspace.lines


def keys(sentences: list[str]) -> set[str]:
    return {normalise(sentence) for sentence in sentences}


def test_no_shipped_sentence_is_trained_on(lines: Sentences) -> None:
    splits = {request.split for request in load_texts()}
    assert {"calibration", "test", "demo", "ordinary", "borderline"} < splits
    assert keys([request.text for request in load_texts()]) == keys(
        list(load_sentences())
    )
    shipped = keys(list(load_sentences()))
    assert not keys(lines.trained) & shipped
    assert not keys(lines.held_out) & shipped


def test_held_out_sentences_are_not_trained_on(lines: Sentences) -> None:
    assert len(lines.held_out) == HELD_OUT
    assert not keys(lines.trained) & keys(lines.held_out)


def test_every_rendering_has_its_sentences(lines: Sentences) -> None:
    said = {name: lines.of(name) for name, *_ in RENDERINGS}
    assert said["requests"] == lines.requests
    assert said["wide"] == lines.wide
    assert said["held-out-seen"] == said["held-out-unseen"] == lines.held_out
    assert said["drills"] == lines.drills
    assert said["written"] == lines.written
    assert all(len(sentences) >= HELD_OUT for sentences in said.values())
    unseen = [name for name, voices, _ in RENDERINGS if voices == "unseen"]
    assert unseen == ["held-out-unseen"]
    seeds = [seed for *_, seed in RENDERINGS]
    assert len(set(seeds)) == len(seeds)


def test_everything_that_is_said_is_spelled(
    workspace: Workspace, lines: Sentences
) -> None:
    preprocessor = workspace.preprocessor
    assert list(preprocessor.vocabulary) == sorted(set(preprocessor.vocabulary))
    assert len(preprocessor.vocabulary) == UNITS
    assert [*workspace.unit_counts] == [*preprocessor.vocabulary]
    said = [SimpleNamespace(text=t) for t in (*lines.trained[::97], *lines.held_out)]
    sayable = [clip.text for clip in preprocessor.sayable(said)]
    assert len(sayable) > 0.98 * len(said)
    for sentence in sayable:
        classes = preprocessor.tokens(sentence)
        ids = [preprocessor.vocabulary[place - 1] for place in classes.tolist()]
        assert preprocessor.tokenizer.decode(ids) == sentence


def test_hearing_trains_the_tower_and_the_projector_alone(workspace: Workspace) -> None:
    encoder = workspace.encoder()
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert {"blank", "log_tau", "projector.weight", "projector.bias"} <= trained
    assert "tower.layer_norm.weight" in trained
    assert not {name for name in trained if name.startswith("tower.conv")}
    model = workspace.untrained[0]
    assert not any(p.requires_grad for p in model.model.language_model.parameters())
