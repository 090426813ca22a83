from __future__ import annotations

import pytest
import torch

from sarguard.reference.training import precision
from sarguard.reference.training.precision import autocast, fastest_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget() -> None:
    fastest_dtype.cache_clear()


@pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
def test_a_cpu_computes_in_what_it_multiplies_fastest(
    fast: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda dtype: float(dtype is not fast))
    assert fastest_dtype(CPU) is fast
    with autocast(CPU):
        found = torch.ones(2, 2) @ torch.ones(2, 2)
    assert found.dtype is fast


def test_a_gpu_computes_in_bfloat16() -> None:
    assert fastest_dtype(torch.device("cuda")) is torch.bfloat16


def test_the_machine_is_timed_in_both() -> None:
    assert precision._seconds(torch.float32) > 0
    assert fastest_dtype(CPU) in {torch.bfloat16, torch.float32}
