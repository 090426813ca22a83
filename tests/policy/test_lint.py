from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sarguard.policy.files import preset_names
from sarguard.policy.lint import Severity, lint
from sarguard.policy.model import Policy
from sarguard.policy.strictness import merge

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SOUND = {"id": "sound", "overrides": {"second_person": True}}


def opened(until: datetime) -> dict[str, Any]:
    return {
        "on_fault": "open",
        "open_reason": "the ledger's disk is being replaced",
        "open_until": until.isoformat(),
    }


WEAK: list[tuple[str, str, dict[str, Any]]] = [
    ("P001", "warning", {"id": "unnamed"}),
    ("P101", "warning", {"mode": "shadow"}),
    ("P102", "warning", {"steering": {"tier": "permissive"}}),
    ("P103", "note", {"steering": {"tier": "strict", "floor": "balanced"}}),
    ("P104", "warning", {"steering": {"block_threshold": "never"}}),
    ("P105", "note", {"steering": {"block_threshold": 0.5}}),
    ("P106", "note", {"steering": {"alpha": 0.1}}),
    (
        "P107",
        "error",
        {
            "mode": "shadow",
            "shadow": {
                "reply": "bare",
                "bare_reason": "compared with last month's answers",
                "bare_until": (NOW + timedelta(hours=1)).isoformat(),
            },
        },
    ),
    ("P108", "warning", {"steering": {"decision_tokens": 23}}),
    ("P201", "error", {"failure": opened(NOW + timedelta(hours=1))}),
    ("P202", "warning", {"failure": opened(NOW)}),
    ("P301", "warning", {"timeouts": {"total_s": 121}}),
    ("P302", "warning", {"timeouts": {"queue_s": 121}}),
    ("P303", "warning", {"audio": {"max_seconds": 601}}),
    ("P304", "warning", {"text": {"max_new_tokens": 4097}}),
    ("P305", "warning", {"history": {"max_turns": 1001}}),
    ("P305", "warning", {"history": {"max_seconds": 3601}}),
    ("P306", "note", {"history": {"when_exceeded": "refuse"}}),
    ("P401", "error", {"audit": {"required": False}}),
    ("P402", "warning", {"audit": {"content": "redacted"}}),
    ("P403", "warning", {"audit": {"on_write_failure": "degrade"}}),
    ("P404", "note", {"audit": {"on_write_failure": "spool"}}),
    ("P405", "warning", {"audit": {"checkpoint_records": 1001}}),
    ("P405", "warning", {"audit": {"checkpoint_seconds": 3601}}),
    ("P801", "note", {"checks": {"rules": {"probe": {"on_flag": "note"}}}}),
    ("P802", "note", {"checks": {"services": ["acme"]}}),
    ("P501", "warning", {"retention": {"days": 90, "floor_days": 90}}),
    ("P601", "warning", {"fallback": {"locale": "sw"}}),
    ("P602", "note", {"fallback": {"messages": {"en": {"error": "Later."}}}}),
    (
        "P603",
        "warning",
        {
            "fallback": {
                "messages": {
                    "en": {
                        "refused": "No, thank you.",
                        "blocked": "That broke a rule of ours.",
                        "error": "Later, please.",
                        "timeout": "Again, please.",
                        "unsupported_audio": "Louder, please.",
                        "over_limit": "Shorter, please.",
                    }
                }
            }
        },
    ),
    ("P701", "note", {"overrides": {"second_person": False}}),
    ("P702", "warning", {"overrides": {"longest_hours": 73}}),
]


def test_a_sound_policy_has_no_findings() -> None:
    assert lint(Policy.build(SOUND), NOW) == []


@pytest.mark.parametrize(("code", "severity", "settings"), WEAK, ids=lambda v: str(v))
def test_each_finding_is_found_alone(
    code: str, severity: str, settings: dict[str, Any]
) -> None:
    found = lint(Policy.build(merge(SOUND, settings)), NOW)
    assert [(weak.code, weak.severity.value) for weak in found] == [(code, severity)]
    assert found[0].fix
    assert found[0].to_dict()["path"]


def test_failing_open_for_long_is_worse() -> None:
    policy = Policy.build(merge(SOUND, {"failure": opened(NOW + timedelta(days=8))}))
    assert [weak.code for weak in lint(policy, NOW)] == ["P201", "P203"]


def test_the_most_severe_comes_first() -> None:
    settings = {
        "mode": "shadow",
        "audit": {"required": False},
        "steering": {"alpha": 1},
    }
    found = [weak.severity for weak in lint(Policy.build(merge(SOUND, settings)), NOW)]
    assert found == [Severity.ERROR, Severity.WARNING, Severity.NOTE]


def test_a_region_is_served_by_its_language() -> None:
    for tag in ("pt-BR", "zh-Hant-TW", "en-GB"):
        assert lint(Policy.build(merge(SOUND, {"fallback": {"locale": tag}}))) == []


@pytest.mark.parametrize("name", sorted(set(preset_names()) - {"development"}))
def test_a_preset_for_callers_has_no_error(name: str) -> None:
    found = {weak.code for weak in lint(Policy.preset(name)) if weak.severity != "note"}
    assert found == ({"P102"} if name == "permissive" else set())
