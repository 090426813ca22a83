from __future__ import annotations

import json

from sarguard.models.families import FAMILIES, UNSUPPORTED
from tests.cli.conftest import Run


def test_the_table_names_every_family_and_why_some_are_refused(run: Run) -> None:
    status, out, err = run("models")
    assert (status, err) == (0, "")
    for family in FAMILIES.values():
        assert family.name in out
    flat = " ".join(out.split())
    for reason in UNSUPPORTED.values():
        assert reason in flat


def test_the_table_is_there_for_programs_too(run: Run) -> None:
    content = json.loads(run("models", "--json")[1])
    assert content["refused"] == UNSUPPORTED
    rows = {row["model_type"]: row for row in content["families"]}
    assert set(rows) == set(FAMILIES)
    assert rows["qwen3_asr"]["clips_per_prompt"] == 1
    assert rows["gemma3n"]["seconds_per_clip"] == 30
    assert rows["gemma3n"]["batch"] == "equal clips"
    assert rows["voxtral"]["needs"] == ["mistral-common"]
