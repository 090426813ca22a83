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
            "max_temperature": 1.5,
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
        {"steering": {"decision_tokens": 40}},
        {"steering": {"max_temperature": 0}},
        {"timeouts": {"total_s": 5, "first_token_s": 1, "queue_s": 1}},
        {"audio": {"max_seconds": 10, "max_clips": 1, "min_seconds": 0.5}},
        {"text": {"max_new_tokens": 5}},
        {"history": {"max_turns": 8, "max_tokens": 900, "when_exceeded": "refuse"}},
        {"history": {"max_seconds": 60, "reuse": False}},
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
        {"steering": {"decision_tokens": 31}},
        {"steering": {"max_temperature": 1.6}},
        {"steering": {"max_temperature": None}},
        {"timeouts": {"total_s": 61}},
        {"audio": {"max_seconds": 31}},
        {"audio": {"min_seconds": 0.01}},
        {"history": {"max_turns": 241}},
        {"history": {"max_seconds": 1201}},
        {"text": {"max_chars": 32_001}},
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
        "decision_tokens": st.integers(0, 99),
        "max_temperature": st.none() | st.floats(0, 3),
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
        assert policy.steering.decision_tokens >= start.steering.decision_tokens
        for asked_for in (0.0, 0.7, 9.0):
            limit = start.steering.temperature_for(asked_for)
            assert policy.steering.temperature_for(asked_for) <= limit
        was_score = start.steering.block_score(0.7)
        now_score = policy.steering.block_score(0.7)
        if was_score is not None:
            assert now_score is not None
            assert now_score <= was_score


def test_every_setting_of_a_request_has_a_direction() -> None:
    """A new setting in a section that requests may touch needs a rule."""
    from sarguard.policy.strictness import _NAMED, _RULES, _TIGHTENED, _flatten

    # With a rule for a check, as a rule's settings have paths only where there is one.
    found = [path for path, _ in _flatten(CHECKED.to_dict())]
    paths = {_NAMED.sub(r"\1*.", path) for path in found}
    # How long a check may take makes nothing stricter.
    paths.remove("checks.rules.*.budget_s")
    assert {path for path in paths if path.startswith(_TIGHTENED)} <= set(_RULES)
    assert set(_RULES) <= paths


def test_a_comparison_names_each_setting_and_its_effect() -> None:
    changes = compare(BASE.to_dict(), Policy(id="base").to_dict())
    found = {change.path: change.effect for change in changes}
    assert found == {
        "mode": Effect.STRONGER,
        "steering.alpha": Effect.WEAKER,
        "steering.block_threshold": Effect.OTHER,
        "steering.max_temperature": Effect.WEAKER,
        "steering.tier": Effect.WEAKER,
    }
    assert str(changes[1]) == "steering.alpha: 0.1 -> not set"
    assert compare(BASE.to_dict(), BASE.to_dict()) == []


RULES = {"probe": {"on_flag": "raise", "raise_to": "strict", "threshold": 0.5}}
CHECKED = Policy.build(
    {"id": "checked", "checks": {"rules": RULES, "services": ["acme", "other"]}}
)


class TestChecks:
    @pytest.mark.parametrize(
        ("asked", "given"),
        [
            ({"on_flag": "block", "raise_to": None}, False),
            ({"raise_to": "maximum"}, True),
            ({"threshold": 0.4}, True),
            ({"threshold": 0.6}, False),
            ({"raise_to": "balanced"}, False),
            ({"raise_to": 0.3}, False),
            ({"on_flag": "note", "raise_to": None}, False),
            ({"budget_s": 0.1}, False),
            ({"required": False}, False),
        ],
        ids=str,
    )
    def test_a_request_can_only_tighten_a_rule(
        self, asked: dict[str, Any], given: bool
    ) -> None:
        patch = {"checks": {"rules": {"probe": asked}}}
        if given:
            found = CHECKED.merge_request(patch).checks.rule("probe")
            assert all(
                str(getattr(found, name)) == str(value) for name, value in asked.items()
            )
            return
        with pytest.raises(PolicyFloorError, match=r"checks\.rules\.probe"):
            CHECKED.merge_request(patch)

    @pytest.mark.parametrize(
        ("old", "new", "effect"),
        [
            (None, "block", Effect.STRONGER),
            ("block", None, Effect.WEAKER),
            ("note", None, Effect.STRONGER),
            (None, "note", Effect.WEAKER),
            ("note", "raise", Effect.STRONGER),
            ("raise", "block", Effect.STRONGER),
            ("raise", None, Effect.OTHER),
        ],
    )
    def test_what_a_flag_does_is_ordered(
        self, old: str | None, new: str | None, effect: Effect
    ) -> None:
        before, after = (
            {"checks": {"rules": {"probe": {"on_flag": value}}}} for value in (old, new)
        )
        (change,) = compare(before, after)
        assert change.effect is effect

    @pytest.mark.parametrize(
        ("services", "effect"),
        [
            (["acme"], Effect.STRONGER),
            ([], Effect.STRONGER),
            (["acme", "other", "third"], Effect.WEAKER),
            (["acme", "third"], Effect.WEAKER),
        ],
    )
    def test_fewer_services_are_stricter(
        self, services: list[str], effect: Effect
    ) -> None:
        (change,) = compare(
            CHECKED.to_dict(),
            {**CHECKED.to_dict(), "checks": {**CHECKED.to_dict()["checks"],
                                             "services": services}},
        )  # fmt: skip
        assert (change.path, change.effect) == ("checks.services", effect)

    def test_a_rule_that_goes_is_weaker(self) -> None:
        gone = Policy.build({"id": "checked"})
        changes = compare(CHECKED.to_dict(), gone.to_dict())
        effects = {change.path: change.effect for change in changes}
        assert effects["checks.rules.probe.required"] is Effect.WEAKER

    def test_raise_to_belongs_to_raise(self) -> None:
        with pytest.raises(PolicyFormatError, match="on_flag: raise"):
            Policy.build({"checks": {"rules": {"probe": {"raise_to": "strict"}}}})
