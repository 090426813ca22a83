from __future__ import annotations

import json
from pathlib import Path

import pytest

from sarguard.evaluation import benchmark
from tests import tiny


def test_every_ratio_is_measured_and_the_model_is_left_as_it_was() -> None:
    loaded = tiny.build(layers=2)
    stop = loaded.model.generation_config.eos_token_id
    found = benchmark.measure(loaded, tokens=4, repeats=2)
    assert len(found) == 4
    for ratio in found:
        assert 0 < ratio.low <= ratio.median <= ratio.high
    assert loaded.model.generation_config.eos_token_id == stop
    assert not loaded.decoder.layers[0]._forward_hooks


def test_the_script_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = tiny.build(layers=1)
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    program = [str(tmp_path), "--tokens", "3", "--repeats", "2", "--json"]
    assert benchmark.main(program) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["machine"]["model"] == str(tmp_path)
    assert next(ratio["bar"] for ratio in content["ratios"]) == "<= 1.03"
