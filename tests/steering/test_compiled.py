"""Compiled decoding: steered like eager decoding, at any alpha, without recompiling.

The static cache keeps every shape the same from step to step, as engines want it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._inductor.utils import fresh_cache

from sarguard.steering.steerer import Steerer
from tests import tiny
from tests.compiled_steps import ALPHAS, graphs, logits_of, vectors_for


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
        alphas = ALPHAS
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
