"""An alignment that a later run takes over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sarguard.errors import ReferenceCorruptError
from sarguard.reference.training.export import load_alignment, save_alignment

CPU = torch.device("cpu")
SHIPPED = Path(__file__).parents[3] / ".training" / "alignment.safetensors"


def test_it_comes_back_as_it_was_but_for_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapters = {"layers.0.lora_A": torch.randn(16, 8), "layers.0.lora_B": torch.ones(3)}
    save_alignment(tmp_path / "a.safetensors", adapters)
    found = load_alignment(tmp_path / "a.safetensors", CPU)
    for name, tensor in adapters.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor.half().float())


def test_one_of_other_bases_or_none_at_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ReferenceCorruptError, match="cannot be read"):
        load_alignment(path, CPU)
    save_file({"x": torch.ones(1)}, path, metadata={"bases": "others", "rank": "16"})
    with pytest.raises(ReferenceCorruptError, match="this version needs"):
        load_alignment(path, CPU)


@pytest.mark.skipif(not SHIPPED.exists(), reason="not part of a source distribution")
def test_the_one_in_the_repository_fits_this_version() -> None:
    found = load_alignment(SHIPPED, CPU)
    assert set(found) == set(load_file(SHIPPED))
    assert all(tensor.isfinite().all() for tensor in found.values())
