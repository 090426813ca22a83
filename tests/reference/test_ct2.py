from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sarguard.errors import ReferenceCorruptError
from sarguard.reference.ct2 import encoder_layers, read_ct2, whisper_encoder_state
from tests.reference.samples import WIDTH, whisper_variables, write_ct2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def test_every_dtype_and_alias_comes_back(path: Path) -> None:
    rng = np.random.default_rng(0)
    variables = {
        dtype: rng.integers(-9, 9, (2, 3)).astype(dtype)
        for dtype in ("float32", "int8", "int16", "int32", "float16")
    }
    variables["scalar"] = np.array(7, np.int16)
    write_ct2(path, variables)
    found = read_ct2(path)
    assert found.keys() == {*variables, "alias"}
    for name, value in variables.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    np.testing.assert_array_equal(found["alias"], variables["float32"])


def test_every_truncation_is_refused(path: Path) -> None:
    write_ct2(path, {"a/weight": np.ones((2, 3), np.float16), "b": np.ones(2, "f4")})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ReferenceCorruptError, match="file ends at"):
            read_ct2(path)


def test_bytes_after_the_end_are_refused(path: Path) -> None:
    write_ct2(path, {"a": np.ones(2, "f4")})
    path.write_bytes(path.read_bytes() + b"xyz")
    with pytest.raises(ReferenceCorruptError, match="3 bytes follow its end"):
        read_ct2(path)


def test_another_version_or_format_is_refused(path: Path) -> None:
    write_ct2(path, {"a": np.ones(2, "f4")}, version=3)
    with pytest.raises(ReferenceCorruptError, match="version is 3, expected 6"):
        read_ct2(path)
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ReferenceCorruptError, match="not a CTranslate2 model"):
        read_ct2(path)


def test_a_size_that_belies_the_shape_is_refused(path: Path) -> None:
    write_ct2(path, {"a": np.ones((2, 3), "f4")})
    whole = bytearray(path.read_bytes())
    place = whole.index(b"a\0") + 2
    assert whole[place : place + 5] == b"\2\2\0\0\0"
    whole[place + 1] = 200
    path.write_bytes(whole)
    with pytest.raises(ReferenceCorruptError, match=r"shape \(200, 3\) holds 24 bytes"):
        read_ct2(path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_raise_anything_else(path: Path, seed: int) -> None:
    write_ct2(path, {"a/weight": np.ones((2, 3), "f2"), "b": np.ones(2, "f4")})
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(whole), 3):
        whole[place] = rng.integers(256)
    path.write_bytes(whole)
    try:
        read_ct2(path)
    except ReferenceCorruptError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_the_encoder_maps_onto_qwen2_audio() -> None:
    from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

    variables = whisper_variables()
    assert encoder_layers(variables) == 2
    state = whisper_encoder_state(variables)
    config = Qwen2AudioEncoderConfig(
        num_mel_bins=80,
        d_model=WIDTH,
        encoder_layers=2,
        encoder_attention_heads=1,
        encoder_ffn_dim=96,
    )
    Qwen2AudioEncoder(config).load_state_dict(state, strict=True)
    fused = torch.from_numpy(
        variables["encoder/layer_1/self_attention/linear_0/weight"].astype(np.float32)
    )
    split = [state[f"layers.1.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert torch.equal(torch.cat(split), fused)
    assert all(value.dtype == torch.float32 for value in state.values())


def test_a_missing_or_quantised_weight_is_named() -> None:
    variables = whisper_variables()
    del variables["encoder/layer_1/ffn/linear_1/bias"]
    with pytest.raises(
        ReferenceCorruptError, match="encoder/layer_1/ffn/linear_1/bias"
    ):
        whisper_encoder_state(variables)
    variables = whisper_variables()
    variables["encoder/conv1/weight"] = np.zeros((WIDTH, 80, 3), np.int8)
    with pytest.raises(ReferenceCorruptError, match="int8; only float16 and float32"):
        whisper_encoder_state(variables)
