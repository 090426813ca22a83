from __future__ import annotations

import pytest
import torch

from sarguard.decoding.divergence import divergence


def test_it_is_nothing_for_equals_and_one_bit_for_strangers() -> None:
    ours = torch.tensor([[0.0, 0.0, -1e9, -1e9], [3.0, 1.0, 0.0, -2.0]])
    theirs = torch.tensor([[-1e9, -1e9, 0.0, 0.0], [4.0, 2.0, 1.0, -1.0]])
    assert divergence(ours, theirs) == pytest.approx([1.0, 0.0], abs=1e-9)
    assert divergence(ours, theirs) == divergence(theirs, ours)


def test_it_is_that_of_jensen_and_shannon() -> None:
    p, q = (
        torch.tensor([0.7, 0.2, 0.1]).double(),
        torch.tensor([0.1, 0.3, 0.6]).double(),
    )
    middle = (p + q) / 2
    expected = ((p * (p / middle).log2()).sum() + (q * (q / middle).log2()).sum()) / 2
    found = divergence(p.log()[None], q.log()[None])
    assert found == pytest.approx([float(expected)])
