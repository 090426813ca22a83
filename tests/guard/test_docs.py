"""Hold the page on checks to what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sarguard import Outcome, Policy, SafeAudioLLM
from sarguard.policy.tiers import Tier
from sarguard.steering.bundle import SteeringBundle
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "checks.md").read_text("utf-8")


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


def test_the_policy_on_the_page_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    policy = Policy.build(yaml.safe_load(example))
    rule = policy.checks.rule("request-classifier")
    assert (rule.on_flag, rule.raise_to, rule.threshold) == ("raise", Tier.STRICT, 1.5)


def test_the_page_names_every_opinion() -> None:
    import sarguard.opinions

    makers = [name for name in sarguard.opinions.__all__ if name.islower()]
    named = [name for name in makers if not name.startswith("parse_")]
    assert all(f"`{name}(" in PAGE for name in named)
