from __future__ import annotations

import copy
import json
import pickle
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import sarguard
from sarguard.errors import ConfigurationError, PolicyFormatError
from sarguard.policy.files import read_yaml
from sarguard.policy.model import Policy
from sarguard.policy.sections import Failure, Steering
from sarguard.policy.tiers import Tier
from sarguard.types import Outcome

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FULL: dict[str, Any] = {
    "id": "clinic",
    "version": 3,
    "steering": {"tier": "strict", "floor": "balanced", "alpha": 0.1},
    "timeouts": {"total_s": 20},
    "fallback": {"locale": "pt-BR", "messages": {"pt-BR": {"blocked": "Não posso."}}},
    "audit": {"content": "encrypted", "checkpoint_seconds": 2.5},
}


def shuffled(values: Any, order: random.Random) -> Any:  # noqa: ANN401
    if not isinstance(values, dict):
        return values
    keys = list(values)
    order.shuffle(keys)
    return {key: shuffled(values[key], order) for key in keys}


def test_it_is_exported() -> None:
    assert sarguard.Policy is Policy


def test_the_defaults_fail_closed() -> None:
    policy = Policy()
    assert policy.fault_outcome() is Outcome.ERROR_CLOSED
    assert policy.mode.value == "enforce"
    assert policy.audit.required
    assert policy.audit.content == "none"
    assert policy.audit.on_write_failure == "block"
    assert policy.steering.block_threshold == "tier"
    assert policy.retention.days >= policy.retention.floor_days >= 183


class TestDigest:
    @settings(max_examples=30)
    @given(st.randoms(use_true_random=False), st.sampled_from([None, 1, 8]))
    def test_order_and_formatting_do_not_matter(
        self, order: random.Random, indent: int | None
    ) -> None:
        mixed = shuffled(FULL, order)
        as_yaml = yaml.safe_dump(mixed, sort_keys=False, indent=indent)
        as_json = json.dumps(mixed, indent=indent)
        expected = Policy.build(FULL).digest
        assert Policy.build(read_yaml(as_yaml, source="x")).digest == expected
        assert Policy.build(json.loads(as_json)).digest == expected

    def test_code_and_file_agree(self) -> None:
        built = Policy(id="a", steering=Steering(tier=Tier.STRICT))
        written = {"id": "a", "steering": {"tier": "strict", "floor": "strict"}}
        assert built.digest == Policy.build(written).digest
        assert built.digest.startswith("sha256:")

    def test_it_never_changes_by_itself(self) -> None:
        # A new setting, or another default, is a new digest for every policy: only
        # change this value together with the release notes.
        expected = "7303fbb7be655c1415f37404858ac1f34e9df91ea414b242a55bfe49e60d49d7"
        assert Policy(id="fixed").digest == f"sha256:{expected}"

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 4},
            {"steering": {"tier": "maximum"}},
            {"timeouts": {"total_s": 20.5}},
            {"fallback": {"ssml": True}},
            {"fallback": {"messages": {"pt-BR": {"blocked": "Não."}}}},
        ],
        ids=str,
    )
    def test_every_setting_is_in_it(self, change: dict[str, Any]) -> None:
        from sarguard.policy.strictness import merge

        changed = Policy.build(merge(FULL, change))
        assert changed.digest != Policy.build(FULL).digest

    def test_it_is_computed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        policy = Policy.build(FULL)
        first = policy.digest
        monkeypatch.setattr(Policy, "to_dict", None)
        assert policy.digest == first

    @pytest.mark.parametrize("deep", [False, True])
    def test_a_changed_copy_has_its_own(self, deep: bool) -> None:
        policy = Policy.build(FULL)
        fresh = Policy.build({**FULL, "version": FULL["version"] + 1})
        assert policy.digest != fresh.digest
        update = {"version": fresh.version}
        assert policy.model_copy(update=update, deep=deep).digest == fresh.digest

    def test_it_plays_no_part_in_equality(self) -> None:
        one, other = Policy.build(FULL), Policy.build(FULL)
        assert one.digest
        assert one == other
        assert hash(one) == hash(other)
        assert one.to_dict() == other.to_dict()

    def test_the_canonical_form_is_a_policy_again(self) -> None:
        policy = Policy.build(FULL)
        assert Policy.build(json.loads(policy.canonical())).digest == policy.digest


class TestFrozen:
    def test_nothing_in_it_can_be_set(self) -> None:
        policy = Policy.build(FULL)
        with pytest.raises(ValidationError):
            policy.version = 9
        with pytest.raises(ValidationError):
            policy.steering.tier = Tier.PERMISSIVE
        with pytest.raises(TypeError):
            policy.fallback.messages["pt-BR"] = {}  # type: ignore[index]
        with pytest.raises(TypeError):
            policy.fallback.messages._held = {}  # type: ignore[attr-defined]

    def test_it_can_be_hashed_copied_and_pickled(self) -> None:
        policy = Policy.build(FULL)
        for again in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
            assert again == policy
            assert hash(again) == hash(policy)
            assert again.digest == policy.digest


class TestProblems:
    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"steering": {"teir": "strict"}}, "Did you mean steering.tier?"),
            ({"steer": {}}, "Did you mean steering?"),
            ({"tier": "strict"}, "Did you mean steering.tier?"),
            ({"checkpoint_second": 3}, "Did you mean audit.checkpoint_seconds?"),
            ({"text": {"xyzzy": 1}}, "Known here: max_chars, max_new_tokens"),
            ({"text": {"max_turns": 8}}, "write history: {max_turns: 8}"),
            ({"steering": {"tier": "strikt"}}, "Did you mean strict?"),
            ({"mode": "shadwo"}, "Did you mean shadow?"),
            ({"api_version": "sarguard/v2"}, "Use a library that knows it"),
            ({"fallback": {"messages": {"en": {"bloked": "No."}}}}, "mean blocked?"),
            ({"fallback": {"messages": {"en": {"blocked": "**No**"}}}}, "plain sent"),
            (
                {"fallback": {"messages": {"e n": {"blocked": "No."}}}},
                "is not a locale",
            ),
            (
                {"fallback": {"messages": {"pt-br": {}, "pt_BR": {}}}},
                "duplicate locale pt-BR",
            ),
            ({"fallback": {"locale": "english!"}}, "is not a locale"),
            ({"fallback": []}, "should be an object"),
            ({"timeouts": {"total_s": "30"}}, "should be a valid number"),
            ({"timeouts": {"total_s": True}}, "should be a valid number"),
            ({"timeouts": {"total_s": 0}}, "greater than 0"),
            ({"timeouts": {"total_s": float("inf")}}, "finite"),
            ({"audit": {"required": 1}}, "should be a valid boolean"),
            ({"version": 1.5}, "should be a valid integer"),
            ({"version": 0}, "greater than or equal to 1"),
            ({"id": "a b"}, "id: "),
            ({"steering": {"alpha": -0.1}}, "greater than 0"),
            (
                {"steering": {"tier": "balanced", "floor": "strict"}},
                "below floor strict",
            ),
            ({"steering": {"block_threshold": "nevr"}}, "Did you mean never?"),
            ({"audio": {"min_seconds": 60}}, "no clip could meet both"),
            ({"retention": {"days": 30}}, "the minimum is 183"),
            ({"failure": {"on_fault": "open"}}, "give open_reason and open_until"),
            (
                {"mode": "shadow", "shadow": {"reply": "bare"}},
                "give bare_reason and bare_until",
            ),
            ({"shadow": {"bare_reason": "because of it"}}, "only belong to"),
            (
                {
                    "shadow": {
                        "reply": "bare",
                        "bare_reason": "because of it",
                        "bare_until": "2026-03-01T00:00:00+00:00",
                    }
                },
                "shadow.reply is bare and mode is enforce",
            ),
            ({"failure": {"open_reason": "because of it"}}, "only belong to"),
            ({"overrides": {"longest_hours": 10**4}}, "less than or equal to 744"),
        ],
        ids=str,
    )
    def test_each_says_what_was_found_and_what_to_do(
        self, values: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(PolicyFormatError) as caught:
            Policy.build(values)
        assert said in str(caught.value)
        assert "pydantic" not in str(caught.value)
        assert isinstance(caught.value, ConfigurationError)

    def test_all_are_listed_at_once(self) -> None:
        values = {"tier": "x", "mode": "y", "steering": {"teir": "z"}}
        with pytest.raises(PolicyFormatError) as caught:
            Policy.build(values, source="clinic.yaml")
        lines = str(caught.value).splitlines()
        assert lines[0] == "clinic.yaml is not a policy:"
        assert len(lines) == 4

    @pytest.mark.parametrize("values", [None, [], "x", {"a": {1, 2}}, {("a",): 1}])
    def test_what_is_no_mapping_of_plain_values_is_refused(
        self,
        values: Any,  # noqa: ANN401
    ) -> None:
        with pytest.raises(PolicyFormatError):
            Policy.build(values)

    def test_values_nested_without_end_are_refused(self) -> None:
        values: dict[str, Any] = {}
        values["steering"] = values
        with pytest.raises(PolicyFormatError):
            Policy.build(values)


class TestFailure:
    def test_open_needs_a_reason_and_an_end_with_a_time_zone(self) -> None:
        values = {
            "on_fault": "open",
            "open_reason": "the ledger's disk is being replaced",
            "open_until": "2026-03-01T13:00:00",
        }
        with pytest.raises(PolicyFormatError, match="open_until"):
            Policy.build({"failure": values})
        values["open_until"] += "+01:00"
        policy = Policy.build({"failure": values})
        same = Policy.build({"failure": {**values, "open_until": "2026-03-01T12:00Z"}})
        assert same.digest == policy.digest
        assert policy.fault_outcome(NOON - timedelta(seconds=1)) is Outcome.ERROR_OPEN
        assert policy.fault_outcome(NOON) is Outcome.ERROR_CLOSED

    def test_a_time_without_a_time_zone_is_refused(self) -> None:
        failure = Failure(on_fault="open", open_reason="a good reason", open_until=NOON)
        with pytest.raises(PolicyFormatError, match="no time zone"):
            failure.is_open(datetime(2026, 3, 1, 11))


class TestSteering:
    def test_alpha_only_ever_adds(self) -> None:
        assert Steering().alpha_for(0.05) == 0.05
        assert Steering(alpha=0.1).alpha_for(0.05) == 0.1
        assert Steering(alpha=0.1).alpha_for(0.2) == 0.2

    def test_the_block_score_is_the_tiers_a_number_or_none(self) -> None:
        assert Steering().block_score(0.7) == 0.7
        assert Steering(block_threshold=0.2).block_score(0.7) == 0.2
        assert Steering(block_threshold="never").block_score(0.7) is None


def test_audio_limits_never_exceed_what_the_model_hears() -> None:
    bounds = Policy.build({"audio": {"max_seconds": 60, "max_channels": 2}}).audio
    assert bounds.limits().max_seconds == 60
    assert bounds.limits(30.0).max_seconds == 30
    assert bounds.limits(90.0).max_seconds == 60
    assert bounds.limits().max_channels == 2


def test_a_record_can_be_made_of_its_fields() -> None:
    from sarguard.audit.records.fields import PolicyRef

    policy = Policy.build(FULL)
    reference = PolicyRef(**policy.record_fields(Tier.MAXIMUM))
    assert reference.digest == policy.digest
    assert (reference.tier, reference.floor) == ("maximum", "balanced")
    assert (reference.id, reference.version) == ("clinic", "3")
