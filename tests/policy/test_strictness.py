from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.errors import PolicyFloorError, PolicyFormatError
from sarguard.policy.model import Policy
from sarguard.policy.strictness import Effect, compare
from sarguard.policy.tiers import Tier

BASE = Policy.build(
    {
        "id": "base",
        "mode": "shadow",
        "steering": {
            "tier": "strict",
            "floor": "balanced",
            "alpha": 0.1,
            "block_threshold": 0.5,
        },
    }
)
TIERS = [tier.value for tier in Tier]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"mode": "enforce"},
        {"steering": {"tier": "maximum"}},
        {"steering": {"tier": "balanced"}},
        {"steering": {"floor": "strict"}},
        {"steering": {"alpha": 0.2}},
        {"steering": {"block_threshold": 0.4}},
        {"timeouts": {"total_s": 5, "first_token_s": 1, "queue_s": 1}},
        {"audio": {"max_seconds": 10, "max_clips": 1, "min_seconds": 0.5}},
        {"text": {"max_new_tokens": 5}},
        {"fallback": {"locale": "fr", "ssml": True}},
    ],
    ids=str,
)
def test_stricter_settings_are_given(asked: dict[str, Any]) -> None:
    found = BASE.merge_request(asked).to_dict()
    for section, values in asked.items():
        part = found[section]
        assert part == values if section == "mode" else values.items() <= part.items()


@pytest.mark.parametrize(
    "asked",
    [
        {"steering": {"alpha": 0.05}},
        {"steering": {"alpha": None}},
        {"steering": {"block_threshold": 0.6}},
        {"steering": {"block_threshold": "never"}},
        {"steering": {"block_threshold": "tier"}},
        {"timeouts": {"total_s": 61}},
        {"audio": {"max_seconds": 31}},
        {"audio": {"min_seconds": 0.01}},
        {"text": {"max_turns": 33}},
        {"audit": {"required": False}},
        {"audit": {"content": "redacted"}},
        {"audit": {"checkpoint_seconds": 1}},
        {"retention": {"days": 400}},
        {"overrides": {"allowed": False}},
        {"failure": {"on_fault": "open", "open_reason": "I would like it to",
                     "open_until": "2100-01-01T00:00:00Z"}},
        {"fallback": {"messages": {"en": {"blocked": "The rule is three."}}}},
        {"fallback": {"replace_refusals": True}},
        {"id": "other"},
        {"version": 2},
        {"description": "mine"},
    ],
    ids=str,
)  # fmt: skip
def test_weaker_settings_and_what_the_file_decides_are_refused(
    asked: dict[str, Any],
) -> None:
    with pytest.raises(PolicyFloorError, match="only make its policy stricter"):
        BASE.merge_request(asked)


def test_the_mode_is_never_lowered() -> None:
    with pytest.raises(PolicyFloorError, match="enforce -> shadow: this is weaker"):
        Policy().merge_request({"mode": "shadow"})


def test_a_threshold_cannot_be_set_against_the_tiers_own() -> None:
    with pytest.raises(PolicyFloorError, match="ask for a higher tier"):
        Policy().merge_request({"steering": {"block_threshold": -9.0}})
    never = Policy.build({"steering": {"block_threshold": "never"}})
    asked = never.merge_request({"steering": {"block_threshold": "tier"}})
    assert asked.steering.block_threshold == "tier"


@pytest.mark.parametrize(
    "asked",
    [
        {"tier": "permissive"},
        {"tier": "permissive", "floor": "permissive"},
        {"floor": "permissive"},
        {"floor": None, "tier": "permissive"},
    ],
    ids=str,
)
def test_the_floor_holds(asked: dict[str, Any]) -> None:
    with pytest.raises(PolicyFloorError, match="floor"):
        BASE.merge_request({"steering": asked})


@pytest.mark.parametrize("asked", [None, [], "strict", {"steering": {"teir": "x"}}])
def test_an_invalid_request_is_refused(asked: Any) -> None:  # noqa: ANN401
    with pytest.raises(PolicyFormatError):
        BASE.merge_request(asked)


def test_raising_the_floor_raises_the_tier() -> None:
    found = BASE.raised(floor="maximum")
    assert (found.steering.tier, found.floor) == (Tier.MAXIMUM, Tier.MAXIMUM)
    assert BASE.raised(floor=Tier.BALANCED).steering.tier is Tier.STRICT
    assert BASE.raised() == BASE
    with pytest.raises(PolicyFloorError):
        BASE.raised(floor="permissive")
    with pytest.raises(PolicyFormatError, match="Did you mean strict"):
        BASE.raised(tier="strick")


def test_what_was_raised_stays_raised() -> None:
    found = BASE.raised(floor="strict", alpha=0.3)
    with pytest.raises(PolicyFloorError):
        found.raised(floor="balanced")
    with pytest.raises(PolicyFloorError):
        found.merge_request({"steering": {"tier": "balanced"}})
    with pytest.raises(PolicyFloorError):
        found.raised(alpha=0.2)


steering = st.fixed_dictionaries(
    {},
    optional={
        "tier": st.sampled_from(TIERS),
        "floor": st.sampled_from(TIERS),
        "alpha": st.none() | st.floats(0.01, 1),
        "block_threshold": st.sampled_from(["tier", "never"]) | st.floats(-3, 3),
    },
)


@given(base=steering, asks=st.lists(steering, max_size=4))
def test_no_chain_of_requests_ends_below_the_floor(
    base: dict[str, Any], asks: list[dict[str, Any]]
) -> None:
    try:
        policy = start = Policy.build({"steering": base})
    except PolicyFormatError:
        return
    for asked in asks:
        try:
            policy = policy.merge_request({"steering": asked})
        except (PolicyFloorError, PolicyFormatError):
            continue
        assert policy.floor >= start.floor
        assert policy.steering.tier >= start.floor
        for tier_alpha in (0.01, 0.5):
            was = start.steering.alpha_for(tier_alpha)
            assert policy.steering.alpha_for(tier_alpha) >= was
        was_score = start.steering.block_score(0.7)
        now_score = policy.steering.block_score(0.7)
        if was_score is not None:
            assert now_score is not None
            assert now_score <= was_score


def test_every_setting_of_a_request_has_a_direction() -> None:
    """A new setting in a section that requests may touch needs a rule."""
    from sarguard.policy.strictness import _RULES, _TIGHTENED, _flatten

    paths = {path for path, _ in _flatten(Policy().to_dict())}
    assert {path for path in paths if path.startswith(_TIGHTENED)} <= set(_RULES)
    assert set(_RULES) <= paths


def test_a_comparison_names_each_setting_and_its_effect() -> None:
    changes = compare(BASE.to_dict(), Policy(id="base").to_dict())
    found = {change.path: change.effect for change in changes}
    assert found == {
        "mode": Effect.STRONGER,
        "steering.alpha": Effect.WEAKER,
        "steering.block_threshold": Effect.OTHER,
        "steering.tier": Effect.WEAKER,
    }
    assert str(changes[1]) == "steering.alpha: 0.1 -> not set"
    assert compare(BASE.to_dict(), BASE.to_dict()) == []
