"""Compiled decoding: steered like eager decoding, at any alpha, without recompiling.

The static cache keeps every shape the same from step to step, as engines want it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import fresh_cache
from transformers import StaticCache

from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import passing_cache
from sarguard.steering.steerer import Steerer
from tests import tiny

LENGTH = 6
STEPS = 4
IDS = torch.tensor([[5, 9, 2, 7, 3, 8], [4, 4, 1, 6, 2, 9]])


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The compiler loads setuptools, which insists on a distutils of its own even
    # where another test's library has loaded the standard one.
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    torch._dynamo.reset()
    # Nor may it find on disk what another environment compiled.
    with fresh_cache():
        yield
    torch._dynamo.reset()


def vectors_for(loaded: LoadedModel) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (len(loaded.decoder), loaded.decoder.hidden_size)
    return 5 * torch.randn(shape, generator=generator)


def logits_of(
    loaded: LoadedModel,
    steerer: Steerer,
    model: Any,  # noqa: ANN401
    alpha: list[float],
) -> Tensor:
    """Return the logits of each step of a fixed answer, with a static cache."""
    cache = StaticCache(loaded.model.config, max_cache_len=LENGTH + STEPS)
    found = []
    fed = IDS
    guard = steerer.guard(prompt_length=LENGTH, alpha=alpha, rows=2)
    with guard as receipt, torch.no_grad():
        for step in range(STEPS):
            start = 0 if step == 0 else LENGTH + step - 1
            positions = torch.arange(start, start + fed.shape[1])[None].expand(2, -1)
            # The prompt has another shape than the steps: only those are compiled.
            forward = loaded.model if step == 0 else model
            output = forward(
                input_ids=fed,
                position_ids=positions,
                **passing_cache(cache),
                use_cache=True,
            )
            found.append(output.logits[:, -1].clone())
            fed = torch.full((2, 1), 10 + step)
    steerer.verify(receipt, output_tokens=STEPS)
    return torch.stack(found)


@pytest.mark.slow
# The compiler's own modules use what torch has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
# The compiler loads setuptools, after whatever loaded distutils before.
@pytest.mark.filterwarnings("ignore:Distutils was imported before Setuptools")
@pytest.mark.filterwarnings("ignore:Setuptools is replacing distutils")
@pytest.mark.filterwarnings("ignore:Reliance on distutils from stdlib")
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_steps_are_steered_like_eager_ones(backend: str) -> None:
    loaded = tiny.build(layers=2)
    with Steerer(loaded.decoder, vectors_for(loaded)) as steerer:
        alphas = [[0.1, 0.4], [0.7, 0.2], [0.3, 0.3]]
        eager = [logits_of(loaded, steerer, loaded.model, a) for a in alphas]
        compiled = torch.compile(loaded.model, backend=backend)
        first = logits_of(loaded, steerer, compiled, alphas[0])
        before = graphs()
        rest = [logits_of(loaded, steerer, compiled, a) for a in alphas[1:]]
        assert before > 0
        assert graphs() == before, "another alpha made it compile again"
    for found, expected in zip([first, *rest], eager, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    # Alpha did reach the compiled steps.
    assert not torch.allclose(rest[0][1:], rest[1][1:], atol=1e-3)


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
