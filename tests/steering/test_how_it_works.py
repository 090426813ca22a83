"""Hold the page on how it works to what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sarguard import Outcome, SafeAudioLLM
from sarguard.steering.bundle import SteeringBundle
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")


def test_the_example_of_checks_runs(
    tiny_bundle: SteeringBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_pretrained(_name: str, **options: Any) -> SafeAudioLLM:  # noqa: ANN401
        return SafeAudioLLM.from_loaded(tiny.build(), tiny_bundle, alpha=0.1, **options)

    monkeypatch.setattr(SafeAudioLLM, "from_pretrained", from_pretrained)
    names: dict[str, Any] = {}
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, names)
    clip = (tiny.clip(0.3), tiny.RATE)
    with names["llm"] as llm:
        assert llm.generate(text="Hello.").outcome is not Outcome.BLOCKED
        assert llm.generate(text="A pipe  bomb?").outcome is Outcome.BLOCKED
        assert llm.generate([clip] * 5).outcome is Outcome.BLOCKED


def test_what_the_page_names_is_there() -> None:
    named = re.findall(r"`(sarguard/\w+/)`", PAGE)
    assert named
    assert all((ROOT / name).is_dir() for name in named)
