from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from sarguard.errors import PolicyFormatError, PolicyOverrideError
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override, PolicyInForce
from sarguard.policy.tiers import Tier
from tests.logs import capture_logs

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = Policy.build({"id": "clinic", "steering": {"tier": "strict"}})
SECOND = Policy.build({"id": "clinic", "overrides": {"second_person": True}})


def override(**fields: Any) -> Override:  # noqa: ANN401
    return Override(
        **{
            "reason": "callers to the poison line are turned away",
            "by": "dr.lee",
            "issued_at": NOON,
            "expires_at": NOON + HOUR,
            "changes": {"steering": {"tier": "balanced", "floor": "balanced"}},
            **fields,
        }
    )


def test_it_lowers_the_floor_until_it_expires() -> None:
    held = PolicyInForce(policy=POLICY).overridden(override(), NOON)
    assert held.at(NOON).floor is Tier.BALANCED
    assert held.at(NOON + HOUR - timedelta(microseconds=1)).floor is Tier.BALANCED
    assert held.at(NOON + HOUR) == POLICY
    assert len(held.active(NOON)) == 1
    assert held.active(NOON + HOUR) == ()


def test_a_clock_that_jumps_back_does_not_prolong_it() -> None:
    held = PolicyInForce(policy=POLICY).overridden(override(), NOON)
    assert held.at(NOON - timedelta(seconds=1)) == POLICY


def test_the_time_zone_counts_not_the_numbers_on_the_clock() -> None:
    found = override()
    tokyo = timezone(timedelta(hours=9))
    assert found.is_active(datetime(2026, 3, 1, 21, 30, tzinfo=tokyo))
    assert not found.is_active(datetime(2026, 3, 1, 12, 30, tzinfo=tokyo))
    with pytest.raises(PolicyFormatError, match="no time zone"):
        found.is_active(datetime(2026, 3, 1, 12, 30))


def test_it_is_never_silent() -> None:
    with capture_logs() as logs:
        override(override_id="o-1").apply(POLICY, NOON)
    assert logs == [
        {
            "event": "policy overridden",
            "log_level": "warning",
            "policy": "clinic",
            "override_id": "o-1",
            "by": "dr.lee",
            "expires_at": "2026-03-01T13:00:00.000000Z",
            "changes": [
                "steering.floor: strict -> balanced",
                "steering.tier: strict -> balanced",
            ],
        }
    ]


def test_the_ledger_can_record_each_change() -> None:
    from sarguard.audit.records.events import PolicyOverridden

    found = override(approved_by="dr.kim").record_fields(POLICY)
    assert [fact["field"] for fact in found] == ["steering.floor", "steering.tier"]
    header = {
        "log": "log_" + "0" * 26,
        "seq": 1,
        "time": "2026-03-01T12:00:00.000000Z",
        "mono_ns": 1,
        "writer": {"instance": "a", "pid": 1},
        "prev": "0" * 64,
    }
    record = PolicyOverridden.model_validate({**header, **found[0]})
    assert (record.value, record.actor, record.approver) == (
        *('"balanced"', "dr.lee", "dr.kim"),
    )
    assert record.expires == "2026-03-01T13:00:00.000000Z"
    assert record.policy.digest == POLICY.digest


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": ""},
        {"reason": "because"},
        {"by": ""},
        {"expires_at": NOON},
        {"expires_at": NOON - HOUR},
        {"expires_at": datetime(2026, 3, 1, 13)},
        {"issued_at": datetime(2026, 3, 1, 12)},
        {"tier": "permissive"},
    ],
    ids=str,
)
def test_it_has_a_reason_a_name_and_an_end(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        override(**fields)
    with pytest.raises(ValidationError):
        Override(reason="a good reason", by="me", changes={})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("policy", "fields", "now", "said"),
    [
        (POLICY, {}, NOON + HOUR, "issue a new one"),
        (POLICY, {}, NOON - HOUR, "issue a new one"),
        (POLICY, {"expires_at": NOON + 25 * HOUR}, NOON, "let it expire sooner"),
        (SECOND, {}, NOON, "second person"),
        (SECOND, {"approved_by": " DR.LEE "}, NOON, "second person"),
        (Policy.preset("maximum"), {}, NOON, "allows no override"),
        (POLICY, {"changes": {}}, NOON, "changes nothing"),
        (POLICY, {"changes": {"steering": {"tier": "strict"}}}, NOON, "changes noth"),
        (POLICY, {"changes": {"id": "x"}}, NOON, "cannot change id"),
        (POLICY, {"changes": {"audit": {"required": False}}}, NOON, "audit.required"),
        (
            POLICY,
            {"changes": {"overrides": {"longest_hours": 700}}},
            NOON,
            "overrides.longest_hours",
        ),
    ],
)
def test_it_keeps_to_the_policy_s_rules(
    policy: Policy, fields: dict[str, Any], now: datetime, said: str
) -> None:
    with pytest.raises(PolicyOverrideError, match=said):
        PolicyInForce(policy=policy).overridden(override(**fields), now)


def test_two_people_can_do_what_one_cannot() -> None:
    changes = {"steering": {"tier": "permissive", "floor": "permissive"}}
    found = override(approved_by="dr.kim", changes=changes).apply(SECOND, NOON)
    assert found.floor is Tier.PERMISSIVE


def test_an_invalid_change_is_explained() -> None:
    wrong = override(override_id="o-1", changes={"steering": {"teir": "x"}})
    with pytest.raises(PolicyFormatError, match="override o-1 is not a policy"):
        wrong.apply(POLICY, NOON)


def test_several_hold_one_over_the_other() -> None:
    held = PolicyInForce(policy=POLICY)
    held = held.overridden(override(), NOON)
    later = override(
        issued_at=NOON + HOUR / 2,
        expires_at=NOON + 2 * HOUR,
        changes={"timeouts": {"total_s": 90}},
    )
    held = held.overridden(later, NOON + HOUR / 2)
    both, one = held.at(NOON + HOUR / 2), held.at(NOON + HOUR)
    assert (both.floor, both.timeouts.total_s) == (Tier.BALANCED, 90)
    assert (one.floor, one.timeouts.total_s) == (Tier.STRICT, 90)


def test_each_gets_its_own_name() -> None:
    assert override().override_id != override().override_id
