"""What a policy holds, on the way through a client."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sarguard.client import SafeAudioLLM
from sarguard.errors import (
    AudioTooLongError,
    ConfigurationError,
    InvalidRequestError,
    PolicyFloorError,
)
from sarguard.evaluation.arms.registry import UnguardedForMeasurement
from sarguard.evaluation.run.batch_answers import Question, answer_batch, make_batches
from sarguard.guard.checks import ALLOW, BLOCK, CheckResult, InputCheck, InputView
from sarguard.guard.factory import effective_policy
from sarguard.models.loading import LoadedModel
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override
from sarguard.policy.tiers import Tier
from sarguard.serving.request import GenerationRequest
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import Decision, DoseSpec
from sarguard.types import Outcome, Reply, Turn
from tests.guard.conftest import ALWAYS, CLIP, FLOORS, Open, policy, records

ASKED: dict[str, Any] = {"audio": CLIP, "text": "Hi.", "max_new_tokens": 4}
BLOCKS = {"block_threshold": ALWAYS}


def same(one: Reply, other: Reply) -> bool:
    return (one.text, one.outcome, one.guard) == (
        other.text,
        other.outcome,
        other.guard,
    )


class TestTiers:
    def test_tiers_in_one_batch_answer_as_if_alone(self, opened: Open) -> None:
        client = opened()
        asked: list[Any] = [
            {**ASKED, "max_new_tokens": 12, "tier": tier} for tier in FLOORS
        ]
        alone = [client.generate(**question) for question in asked]
        together = client.generate_batch(asked)
        assert all(map(same, together, alone))
        assert [reply.guard.tier for reply in together] == list(FLOORS)
        strengths = [reply.guard.alpha for reply in together]
        assert strengths == sorted(set(strengths))

    def test_a_client_without_a_policy_is_balanced(
        self, loaded: LoadedModel, calm_bundle: SteeringBundle
    ) -> None:
        with SafeAudioLLM.from_loaded(loaded, calm_bundle) as client:
            reply = client.generate(**ASKED)
            assert (reply.guard.mode, reply.guard.tier) == ("conditioned", "balanced")
            assert reply.audit_id is None
            stronger = client.generate(**ASKED, alpha=0.3)
            assert (stronger.guard.mode, stronger.guard.tier) == (
                *("conditioned", "balanced"),
            )
            assert stronger.guard.alpha >= 0.3

    @pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
    def test_what_is_no_number_gets_around_no_least_strength(
        self, opened: Open, alpha: float
    ) -> None:
        client = opened(policy=policy(steering={"alpha": 0.9}))
        with pytest.raises(InvalidRequestError, match="finite"):
            client.generate(**ASKED, alpha=alpha)
        with pytest.raises(ConfigurationError, match="finite"):
            effective_policy(tier="balanced", alpha=alpha)

    def test_the_least_strength_holds_above_the_tiers(self, opened: Open) -> None:
        client = opened(policy=policy(steering={"alpha": 0.9}))
        assert client.generate(**ASKED).guard.alpha == 0.9
        assert client.generate(**ASKED, alpha=1.5).guard.alpha == 1.5

    def test_a_tier_that_is_none(self, opened: Open) -> None:
        with pytest.raises(InvalidRequestError, match="strict"):
            opened().generate(**ASKED, tier="strikt")


class TestTheFloor:
    @pytest.mark.parametrize("way", ["generate", "stream", "batch"])
    @pytest.mark.parametrize("less", [{"tier": "balanced"}, {"alpha": 0.01}])
    def test_a_request_cannot_ask_for_less(
        self, opened: Open, way: str, less: dict[str, Any]
    ) -> None:
        client = opened(
            policy=policy(steering={"tier": "strict", "floor": "strict", "alpha": 0.1})
        )
        asked = {**ASKED, **less}
        ways = {"batch": lambda **question: client.generate_batch([question])}
        with pytest.raises(PolicyFloorError):
            ways.get(way, getattr(client, way, None))(**asked)
        (ended,) = records(client, "request_finished")
        assert ended.outcome is Outcome.ERROR_CLOSED
        assert ended.fault.type == "PolicyFloorError"

    def test_nor_can_a_client(self, opened: Open) -> None:
        strict = policy(steering={"tier": "strict", "floor": "strict", "alpha": 0.5})
        with pytest.raises(PolicyFloorError):
            opened(policy=strict, tier="balanced")
        with pytest.raises(PolicyFloorError):
            opened(policy=strict, alpha=0.1)
        client = opened(policy=strict, tier="maximum")
        assert client.generate(**ASKED).guard.tier == "maximum"


class TestBounds:
    @pytest.mark.parametrize(
        ("bounds", "asked", "rule"),
        [
            ({"text": {"max_chars": 5}}, {"text": "Too long."}, "text.max_chars"),
            (
                {"history": {"max_turns": 1, "when_exceeded": "refuse"}},
                {"history": [Turn(role="user", text="A")] * 2},
                "history.max_turns",
            ),
            ({"audio": {"max_clips": 1}}, {"audio": [CLIP, CLIP]}, "audio.max_clips"),
        ],
    )
    def test_more_than_is_allowed_is_over_the_limit(
        self,
        opened: Open,
        bounds: dict[str, Any],
        asked: dict[str, Any],
        rule: str,
    ) -> None:
        client = opened(policy=policy(**bounds))
        reply = client.generate(**{**ASKED, **asked}, locale="de")
        assert (reply.outcome, reply.finish_reason) == (Outcome.OVER_LIMIT, "limit")
        assert reply.text == client.policy.message("over_limit", "de").text
        assert reply.text != client.policy.message("blocked", "de").text
        (ended,) = records(client, "request_finished")
        assert (ended.rule, ended.reason, ended.scores) == (rule, "limit", ())
        assert ended.fallback.reason == "over_limit"

    def test_clips_answers_and_times_are_bounded(self, opened: Open) -> None:
        client = opened(
            policy=policy(
                audio={"max_seconds": 0.4},
                text={"max_new_tokens": 2},
                timeouts={"total_s": 50, "queue_s": 0.000001},
            )
        )
        with pytest.raises(AudioTooLongError):
            client.generate(**ASKED)
        assert client.generate(text="Hi.").outcome is Outcome.TIMEOUT


class TestBlocking:
    def test_the_policys_threshold_blocks(self, opened: Open) -> None:
        client = opened(policy=policy(steering=BLOCKS, fallback={"ssml": True}))
        reply = client.generate(**ASKED, locale="fr-CA")
        assert (reply.outcome, reply.usage.output_tokens) == (Outcome.BLOCKED, 0)
        assert reply.text == client.policy.message("blocked", "fr").text
        assert reply.ssml is not None
        (ended,) = records(client, "request_finished")
        assert (ended.rule, ended.reason) == ("steering.block_threshold", "score")
        assert ended.fallback.message_id == "default.fr.blocked"

    def test_shadow_mode_notes_what_it_would_block(self, opened: Open) -> None:
        client = opened(policy=policy(steering=BLOCKS, mode="shadow"))
        reply = client.generate(**ASKED)
        assert reply.outcome is Outcome.ANSWERED
        assert reply.guard.steered_positions == 4
        assert reply.guard.would_block == "steering.block_threshold"
        (ended,) = records(client, "request_finished")
        assert (ended.outcome, ended.reason) == (Outcome.ANSWERED, "would_block")
        assert ended.policy.mode == "shadow"
        assert ended.dose.divergence == round(reply.guard.divergence, 6)

    def test_nothing_is_compared_where_blocks_hold(self, opened: Open) -> None:
        client = opened()
        reply = client.generate(**ASKED)
        assert reply.guard.score is not None
        assert reply.guard.divergence is None
        (ended,) = records(client, "request_finished")
        assert ended.dose.divergence is None

    def test_shadow_mode_answers_bare_where_a_policy_gives_a_reason(
        self, opened: Open, loaded: LoadedModel, calm_bundle: SteeringBundle
    ) -> None:
        until = datetime.now(UTC) + timedelta(hours=1)
        bare = {
            "reply": "bare",
            "bare_reason": "compared with last month's answers",
            "bare_until": until.isoformat(),
        }
        steering = {**BLOCKS, "alpha": 5.0}
        client = opened(policy=policy(steering=steering, mode="shadow", shadow=bare))
        asked: Any = {"audio": CLIP, "max_new_tokens": 4}
        replies = [client.generate(**asked), *client.generate_batch([asked, asked])]
        client.change_policy(policy(steering=steering, mode="shadow"))
        steered = client.generate(**asked)
        ended = records(client, "request_finished")
        client.close()
        question = Question(pair="", kind="safe", audio=CLIP[0])
        (plain,) = make_batches(loaded, [question], size=1)
        with UnguardedForMeasurement(loaded.decoder) as unguarded:
            (expected,) = answer_batch(
                loaded, unguarded, plain, alpha=1.0, max_new_tokens=4
            )
        for reply, record in zip(replies, ended, strict=False):
            assert reply.text == expected != steered.text
            assert (reply.guard.mode, reply.guard.steered_positions) == ("bare", 0)
            assert reply.guard.would_block == "steering.block_threshold"
            assert reply.guard.divergence == pytest.approx(
                steered.guard.divergence, abs=1e-6
            )
            assert record.reason == "shadow_bare"
            assert (record.dose.mode, record.receipt.attested) == ("bare", False)
            assert record.dose.divergence == pytest.approx(
                reply.guard.divergence, abs=1e-6
            )
        assert (steered.guard.mode, steered.guard.steered_positions) == (
            *("conditioned", 4),
        )
        assert 0 < steered.guard.divergence <= 1
        assert ended[-1].receipt.attested

    def test_bare_answers_end_when_the_policy_says_so(self, opened: Open) -> None:
        bare = {
            "reply": "bare",
            "bare_reason": "compared with last month's answers",
            "bare_until": "2020-01-01T00:00:00+00:00",
        }
        client = opened(policy=policy(mode="shadow", shadow=bare))
        assert client.generate(**ASKED).guard.steered_positions == 4

    def test_a_second_signal_is_enough_to_block(self, opened: Open) -> None:
        heard: list[int] = []

        def check(view: InputView) -> CheckResult:
            heard.append(view.turns[-1].audio[0].shape[0])
            return BLOCK if "bomb" in view.text else ALLOW

        client = opened(input_checks=[InputCheck(name="words", run=check)])
        assert client.generate(**ASKED).outcome is Outcome.ANSWERED
        reply = client.generate(**{**ASKED, "text": "A bomb."})
        assert reply.outcome is Outcome.BLOCKED
        assert heard == [8000, 8000]
        assert records(client, "request_finished")[-1].rule == "checks.words"

    def test_failing_open_is_loud_and_only_beside_the_model(self, opened: Open) -> None:
        soon = datetime.now(UTC) + timedelta(hours=1)
        reason = "the transcriber is being replaced"
        lenient = {"on_fault": "open", "open_reason": reason, "open_until": soon}

        def check(_view: InputView) -> CheckResult:
            raise OSError("no transcriber")

        client = opened(
            policy=policy(failure=lenient),
            input_checks=[InputCheck(name="words", run=check)],
        )
        reply = client.generate(**ASKED)
        assert reply.outcome is Outcome.ERROR_OPEN
        assert reply.guard.steered_positions == 4
        (ended,) = records(client, "request_finished")
        assert (ended.outcome, ended.fault.type) == (Outcome.ERROR_OPEN, "OSError")
        client._backend.loaded.decoder.layers[0]._forward_hooks.clear()
        assert client.generate(**ASKED).outcome is Outcome.ERROR_CLOSED


class TestTheLedger:
    def test_a_policy_that_wants_one_gets_one(self, opened: Open) -> None:
        with pytest.raises(ConfigurationError, match="audit="):
            opened(audit=None)

    def test_what_a_client_begins_with_is_recorded(self, opened: Open) -> None:
        client = opened()
        kinds = ("policy_loaded", "model_loaded", "steering_attached")
        loaded, model, attached = (records(client, kind)[0] for kind in kinds)
        assert loaded.policy.digest == client.policy.digest
        assert Policy.build(json.loads(loaded.body)) == client.policy
        assert model.model.weights_digest == client.bundle.card.weights_digest
        assert attached.steering.bundle_digest == client.bundle.digest

    def test_an_override_is_an_event_of_its_own(self, opened: Open) -> None:
        client = opened(policy=policy(steering={"tier": "strict", "floor": "strict"}))
        now = datetime.now(UTC)
        client.override(
            Override(
                reason="an incident at the clinic",
                by="ada",
                issued_at=now,
                expires_at=now + timedelta(hours=1),
                changes={"steering": {"tier": "balanced", "floor": "balanced"}},
            )
        )
        assert client.generate(**ASKED).guard.tier == "balanced"
        found = records(client, "policy_overridden")
        assert {event.field for event in found} == {"steering.tier", "steering.floor"}
        assert {event.actor for event in found} == {"ada"}
        (begun,) = records(client, "request_started")
        assert begun.policy.floor == "balanced"


class TestWhatTheOwnerSaid:
    """What a client was opened with is a floor for whoever asks it."""

    @pytest.mark.parametrize(
        ("opened_with", "asked", "says"),
        [
            ({"tier": "maximum"}, {"tier": "strict"}, "opened with maximum"),
            ({}, {"tier": "permissive"}, "opened with balanced"),
            ({"tier": "maximum", "alpha": 0.2}, {"alpha": 1e-9}, "opened with 0.2"),
            ({"alpha": 0.2}, {"alpha": 0.1}, "opened with 0.2"),
            ({"policy": policy(), "tier": "strict"}, {"tier": "balanced"}, "strict"),
            (
                {"policy": policy(), "tier": "strict", "alpha": 0.2},
                {"alpha": 0.1},
                "opened with 0.2",
            ),
            ({"policy": policy(steering={"alpha": 0.3})}, {"alpha": 0.1}, "holds 0.3"),
        ],
        ids=str,
    )
    def test_a_request_cannot_ask_for_less(
        self,
        loaded: LoadedModel,
        calm_bundle: SteeringBundle,
        tmp_path: Path,
        opened_with: dict[str, Any],
        asked: dict[str, Any],
        says: str,
    ) -> None:
        options = {"audit": tmp_path / "audit.db", **opened_with}
        with SafeAudioLLM.from_loaded(loaded, calm_bundle, **options) as client:
            with pytest.raises(PolicyFloorError, match=says):
                client.generate(**ASKED, **asked)
            assert client.generate(**ASKED).outcome is Outcome.ANSWERED

    @pytest.mark.parametrize(
        "opened_with",
        [
            {},
            {"tier": "strict"},
            {"alpha": 0.4},
            {"tier": "strict", "alpha": 0.4},
            {"dose": DoseSpec.constant(0.4)},
            {"policy": policy()},
            {"policy": policy(steering={"alpha": 0.4})},
        ],
        ids=str,
    )
    @pytest.mark.parametrize(
        "asked",
        [{"tier": t} for t in Tier] + [{"alpha": a} for a in (1e-9, 0.1, 0.5)],
        ids=str,
    )
    @pytest.mark.parametrize("score", [-9.0, -0.3, 0.0, 0.4, 9.0])
    def test_whatever_is_asked_no_score_is_dosed_less(
        self,
        calm_bundle: SteeringBundle,
        opened_with: dict[str, Any],
        asked: dict[str, Any],
        score: float,
    ) -> None:
        effective = effective_policy(**opened_with)

        def decided(**options: Any) -> Decision:  # noqa: ANN401
            request = GenerationRequest.build(text="Hi.", **options)
            resolved = effective.resolve(request, calm_bundle, max_audio_seconds=30.0)
            return resolved.dose.decide(score)

        plain = decided()
        try:
            found = decided(**asked)
        except PolicyFloorError:
            return
        # A policy may leave the tiers down to its floor to the request.
        if "policy" in opened_with and "tier" in asked:
            plain = replace(plain, alpha=opened_with["policy"].steering.alpha or 0.0)
        else:
            assert found.blocked >= plain.blocked
        assert found.alpha >= plain.alpha


class TestPoliciesThatFollow:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({"steering": {"tier": "strict"}}, {"steering": {"tier": "balanced"}}),
            ({"steering": {"alpha": 0.3}}, {"steering": {"alpha": 0.2}}),
            ({"steering": {"alpha": 0.3}}, {}),
            ({"steering": {"block_threshold": 1.0}}, {}),
            ({}, {"steering": {"block_threshold": "never"}}),
            ({}, {"mode": "shadow"}),
            ({"text": {"max_chars": 100}}, {"text": {"max_chars": 200}}),
            ({}, {"audit": {"on_write_failure": "degrade"}}),
            ({"overrides": {"second_person": True}}, {}),
        ],
        ids=str,
    )
    def test_a_weaker_one_is_refused_and_the_old_one_holds(
        self, opened: Open, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        client = opened(policy=policy(**before))
        held = client.policy
        with pytest.raises(PolicyFloorError, match="use an override with a reason"):
            client.change_policy(policy(**after))
        assert client.policy is held
        assert records(client, "policy_changed") == []

    def test_a_stricter_one_holds_and_is_recorded(self, opened: Open) -> None:
        client = opened(policy=policy(text={"max_new_tokens": 4}))
        client.change_policy(policy(text={"max_new_tokens": 2}), actor="ops")
        assert client.generate(text="Hi.").usage.output_tokens == 2
        (changed,) = records(client, "policy_changed")
        assert changed.changes == ("text.max_new_tokens: 4 -> 2",)
        assert changed.actor == "ops"

    def test_it_does_not_end_a_stricter_override(self, opened: Open) -> None:
        client = opened()
        until = datetime.now(UTC) + timedelta(hours=1)
        raised = {"steering": {"tier": "maximum"}}
        client.override(
            Override(reason="an attack", by="Ann", expires_at=until, changes=raised)
        )
        with pytest.raises(PolicyFloorError, match="maximum -> strict"):
            client.change_policy(policy(steering={"tier": "strict"}))
        assert client.policy.steering.tier is Tier.MAXIMUM
