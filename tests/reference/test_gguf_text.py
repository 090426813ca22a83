from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sarguard.errors import ReferenceCorruptError
from sarguard.reference.gguf_text import read_gguf
from tests.reference.samples import CONTROL, MERGES, TOKENS, llama_weights, write_gguf


def test_weights_come_back_under_qwen2_names_with_rotary_rows_in_order(
    tmp_path: Path,
) -> None:
    weights = llama_weights()
    write_gguf(tmp_path / "a.gguf", weights)
    found = read_gguf(tmp_path / "a.gguf")
    assert found.weights.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(found.weights[name], value, err_msg=name)


def test_geometry_and_vocabulary_are_read(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", llama_weights())
    found = read_gguf(tmp_path / "a.gguf")
    assert found.geometry.num_key_value_heads == 2
    assert found.geometry.rms_norm_eps == 1e-5
    assert found.geometry.rope_theta == 10_000.0
    assert list(found.vocabulary.tokens) == TOKENS
    assert list(found.vocabulary.merges) == MERGES
    assert list(found.vocabulary.control) == CONTROL


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", llama_weights(), architecture="gpt2")
    with pytest.raises(ReferenceCorruptError, match="'gpt2', expected 'llama'"):
        read_gguf(tmp_path / "a.gguf")


def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, llama_weights())
    whole = path.read_bytes()
    for content in (
        b"",
        b"not a model at all, just text" * 9,
        whole[:40],
        whole[:-999],
    ):
        path.write_bytes(content)
        with pytest.raises(ReferenceCorruptError):
            read_gguf(path)
