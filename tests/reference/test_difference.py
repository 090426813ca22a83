from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from sarguard.errors import ReferenceCorruptError
from sarguard.reference.bases import bases_digest
from sarguard.reference.build import build_model, build_untrained
from sarguard.reference.difference import (
    DIFFERENCE_FORMAT,
    apply_difference,
    merged_weight,
    save_difference,
)

Factors = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

SCALE = {"lora_scale": "2.0"}
DOWN = "language_model.layers.1.mlp.down_proj"


def integers(shape: tuple[int, int], step: int, dtype: type) -> NDArray[Any]:
    """Return numbers that need no random generator and no rounding."""
    count = np.arange(shape[0] * shape[1], dtype=np.int64) * step % 2039
    return ((count - 1019) / 1024).astype(dtype).reshape(shape)


@pytest.fixture
def factors() -> Factors:
    weight = integers((70, 11), 701, np.float32)
    return weight, integers((5, 11), 307, np.float16), integers((70, 5), 89, np.float16)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    return {
        "audio_tower.layers.1.fc2.weight": noise(64, 96),
        "multi_modal_projector.linear.weight": noise(64, 64),
        f"{DOWN}.lora_A": noise(3, 96),
        f"{DOWN}.lora_B": noise(64, 3),
    }


def test_merging_rounds_once_and_in_order(factors: Factors) -> None:
    weight, lora_a, lora_b = factors
    merged = merged_weight(weight, lora_a, lora_b, 0.3)
    for row in range(70):
        for column in range(11):
            total = 0.0
            for rank in range(5):
                total += float(lora_b[row, rank]) * float(lora_a[rank, column])
            expected = np.float32(total * 0.3 + float(weight[row, column]))
            assert merged[row, column] == expected


def test_merging_gives_known_bits(factors: Factors) -> None:
    merged = merged_weight(*factors, 0.3)
    digest = hashlib.sha256(merged.astype("<f4").tobytes()).hexdigest()
    assert digest == "e771e327cd4f4887b01f83dc8c3d00cab0cae68db503714d9ed23710a981ec92"


def test_merging_agrees_with_a_float64_einsum(factors: Factors) -> None:
    weight, lora_a, lora_b = factors
    product = np.einsum("or,ri->oi", *(f.astype(np.float64) for f in (lora_b, lora_a)))
    expected = weight.astype(np.float64) + 2.0 * product
    merged = merged_weight(weight, lora_a, lora_b, 2.0)
    np.testing.assert_allclose(merged, expected, rtol=1e-7, atol=1e-7)


def test_a_difference_changes_what_it_names_and_nothing_else(
    tiny_bases: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "difference.safetensors"
    save_difference(path, tensors, SCALE)
    before = build_untrained(tiny_bases)[0].model.state_dict()
    after = build_model(tiny_bases, path)[0].model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {
        "audio_tower.layers.1.fc2.weight",
        "multi_modal_projector.linear.weight",
        f"{DOWN}.weight",
    }
    audio = tensors["audio_tower.layers.1.fc2.weight"].half().float()
    assert torch.equal(after["audio_tower.layers.1.fc2.weight"], audio)
    projector = "multi_modal_projector.linear.weight"
    assert torch.equal(after[projector], tensors[projector])
    halves = [
        tensors[f"{DOWN}.{part}"].half().double() for part in ("lora_B", "lora_A")
    ]
    expected = before[f"{DOWN}.weight"].double() + 2.0 * halves[0] @ halves[1]
    torch.testing.assert_close(
        after[f"{DOWN}.weight"].double(), expected, rtol=1e-7, atol=1e-7
    )


def test_the_file_says_its_format_and_bases_and_keeps_notes(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "difference.safetensors"
    save_difference(path, tensors, {**SCALE, "steps": "12"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {
            "format": DIFFERENCE_FORMAT,
            "bases": bases_digest(),
            "lora_scale": "2.0",
            "steps": "12",
        }
        dtypes = {name: file.get_tensor(name).dtype for name in tensors}
    assert dtypes.pop("multi_modal_projector.linear.weight") == torch.float32
    assert set(dtypes.values()) == {torch.float16}


@pytest.mark.parametrize(
    ("change", "metadata", "problem"),
    [
        ({"lm_head.weight": torch.zeros(2)}, SCALE, "not a name that the format"),
        ({f"{DOWN}.lora_C": torch.zeros(2)}, SCALE, "not a name that the format"),
        ({f"{DOWN}.lora_B": torch.zeros(64, 4)}, SCALE, "do not share a rank"),
        ({"language_model.norm.lora_A": torch.zeros(2, 2)}, SCALE, "only one of"),
        ({"audio_tower.x": torch.tensor([1e6])}, SCALE, "not finite in torch.float16"),
        ({}, {}, "lora_scale is None"),
        ({}, {"lora_scale": "two"}, "lora_scale is 'two'"),
        ({}, {"lora_scale": "nan"}, "lora_scale is 'nan'"),
    ],
)
def test_what_does_not_fit_the_format_is_not_saved(
    tmp_path: Path,
    tensors: dict[str, torch.Tensor],
    change: dict[str, torch.Tensor],
    metadata: dict[str, str],
    problem: str,
) -> None:
    with pytest.raises(ValueError, match=problem):
        save_difference(tmp_path / "d.safetensors", tensors | change, metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("audio_tower.layers.9.fc2.weight", (2, 2), "does not have"),
        ("audio_tower.layers.1.fc2.weight", (2, 2), r"shape \(2, 2\), the model's"),
    ],
)
def test_a_difference_for_another_model_is_refused(
    tiny_bases: Path, tmp_path: Path, name: str, shape: tuple[int, ...], problem: str
) -> None:
    path = tmp_path / "difference.safetensors"
    save_difference(path, {name: torch.zeros(shape)}, {})
    with pytest.raises(ReferenceCorruptError, match=problem):
        build_model(tiny_bases, path)


def test_a_lora_of_another_shape_is_refused(tiny_bases: Path, tmp_path: Path) -> None:
    path = tmp_path / "difference.safetensors"
    loras = {f"{DOWN}.lora_A": torch.zeros(2, 8), f"{DOWN}.lora_B": torch.zeros(8, 2)}
    save_difference(path, loras, SCALE)
    with pytest.raises(ReferenceCorruptError, match=r"LoRA of shape \(8, 8\)"):
        build_model(tiny_bases, path)


def test_a_rounded_model_is_not_merged_into(
    tiny_bases: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "difference.safetensors"
    save_difference(path, tensors, SCALE)
    model = build_untrained(tiny_bases)[0].bfloat16()
    with pytest.raises(ValueError, match="merged into float32 weights"):
        apply_difference(model, path)


def test_an_unreadable_or_foreign_file_is_refused(
    tiny_bases: Path, tmp_path: Path
) -> None:
    path = tmp_path / "difference.safetensors"
    with pytest.raises(ReferenceCorruptError, match="cannot be read"):
        build_model(tiny_bases, path)
    path.write_bytes(b"garbage" * 9)
    with pytest.raises(ReferenceCorruptError, match="cannot be read"):
        build_model(tiny_bases, path)
    save_file({"audio_tower.x": torch.zeros(1)}, path, {"format": "other"})
    with pytest.raises(ReferenceCorruptError, match="format is 'other'"):
        build_model(tiny_bases, path)
    stamp = {"format": DIFFERENCE_FORMAT, "bases": "elsewhere"}
    save_file({"audio_tower.x": torch.zeros(1)}, path, stamp)
    with pytest.raises(ReferenceCorruptError, match="other base weights"):
        build_model(tiny_bases, path)
