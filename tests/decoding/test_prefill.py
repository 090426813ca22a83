from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sarguard.decoding.prefill import last_positions

ROWS, TOKENS, WIDTH, WORDS = 2, 5, 3, 7


class Quantised(nn.Linear):
    """Stand for a layer whose kernel cannot run on nothing."""

    def forward(self, given: Tensor) -> Tensor:
        if given.numel() == 0:
            raise RuntimeError("a kernel launched on nothing")
        return super().forward(given)


class Model(nn.Module):
    def __init__(self, head: nn.Module, *, says: bool = True) -> None:
        super().__init__()
        self.head = head
        self._says = says

    def get_output_embeddings(self) -> nn.Module | None:
        if not self._says:
            raise NotImplementedError
        return self.head

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states)
        return logits


def states() -> Tensor:
    return torch.randn(
        (ROWS, TOKENS, WIDTH), generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("count", [0, 1, 2, TOKENS, TOKENS + 1])
def test_logits_are_those_of_the_last_positions(count: int) -> None:
    model = Model(nn.Linear(WIDTH, WORDS))
    whole = model(states())
    with torch.no_grad(), last_positions(model, count):
        found = model(states())
    kept = min(count, TOKENS)
    assert found.shape == (ROWS, kept, WORDS)
    torch.testing.assert_close(found, whole[:, TOKENS - kept :])
    assert model(states()).shape == (ROWS, TOKENS, WORDS)


def test_a_layer_of_another_kind_is_never_run_on_nothing() -> None:
    with last_positions(model := Model(Quantised(WIDTH, WORDS)), 0):
        assert model(states()).shape == (ROWS, 1, WORDS)


def says_not() -> Model:
    return Model(nn.Linear(WIDTH, WORDS), says=False)


def names_none() -> Model:
    model = says_not()
    model.get_output_embeddings = lambda: None  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("make", [says_not, names_none])
def test_a_model_that_names_no_output_layer_runs_whole(
    make: Callable[[], Model],
) -> None:
    with last_positions(model := make(), 0):
        assert model(states()).shape == (ROWS, TOKENS, WORDS)


def test_the_layer_is_whole_again_after_an_error() -> None:
    model = Model(nn.Linear(WIDTH, WORDS))
    with pytest.raises(KeyError), last_positions(model, 0):
        raise KeyError
    assert model(states()).shape == (ROWS, TOKENS, WORDS)
