"""What a check's flag does under a policy: block, raise the dose, or only a note."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.audit.records.fields import CheckVerdict
from sarguard.audit.wording import describe
from sarguard.client import SafeAudioLLM
from sarguard.errors import ConfigurationError, SarguardError
from sarguard.guard.checks import (
    ALLOW,
    BLOCK,
    CheckResult,
    InputCheck,
    InputView,
    OutputCheck,
)
from sarguard.guard.transcripts import SpeechRecogniser
from sarguard.policy.overrides import Override
from sarguard.policy.tiers import Tier
from sarguard.steering.dose import DoseRule, DoseSpec
from sarguard.types import Outcome, Turn
from tests.guard.conftest import CLIP, FLOORS, policy, records

Open = Callable[..., SafeAudioLLM]


def scored(score: float, **more: Any) -> InputCheck:  # noqa: ANN401
    """Return a check that flags from 0.5 and gives a score."""
    result = CheckResult(score=score, threshold=0.5, blocked=score >= 0.5, **more)
    return InputCheck(name="probe", version="2", run=lambda view: result)


def ruled(**rule: Any) -> Any:  # noqa: ANN401
    return policy(checks={"rules": {"probe": rule}})


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "outcome", "verdict"),
        [
            ({}, Outcome.BLOCKED, "blocked"),
            ({"on_flag": "block"}, Outcome.BLOCKED, "blocked"),
            ({"on_flag": "raise"}, Outcome.ANSWERED, "raised"),
            ({"on_flag": "note"}, Outcome.ANSWERED, "noted"),
            ({"threshold": 0.95}, Outcome.ANSWERED, "allowed"),
        ],
    )
    def test_the_policy_says_what_a_flag_does(
        self, opened: Open, rule: dict[str, Any], outcome: Outcome, verdict: str
    ) -> None:
        client = opened(policy=ruled(**rule), input_checks=[scored(0.9, label="fraud")])
        assert client.generate(CLIP, "Hello.").outcome is outcome
        (ended,) = records(client, "request_finished")
        (check,) = ended.checks
        assert (check.verdict, check.score, check.label) == (verdict, 0.9, "fraud")
        assert check.threshold == rule.get("threshold", 0.5)
        assert ended.schema_version == 2
        assert ("0.90" in describe(ended.model_dump())) is (verdict != "allowed")

    def test_a_policy_s_threshold_flags_what_the_check_lets_pass(
        self, opened: Open
    ) -> None:
        client = opened(policy=ruled(threshold=0.2), input_checks=[scored(0.3)])
        assert client.generate(CLIP, "Hello.").outcome is Outcome.BLOCKED

    def test_a_threshold_needs_a_score(self, opened: Open) -> None:
        check = InputCheck(name="probe", run=lambda view: ALLOW)
        client = opened(policy=ruled(threshold=0.2), input_checks=[check])
        reply = client.generate(CLIP, "Hello.")
        assert reply.outcome is Outcome.ERROR_CLOSED
        assert "gives no score" in (reply.guard.fault or "")

    @pytest.mark.parametrize("score", [float("nan"), float("inf")])
    def test_a_score_that_is_no_number_has_not_passed(
        self, opened: Open, score: float
    ) -> None:
        check = InputCheck(name="probe", run=lambda view: CheckResult(score=score))
        client = opened(input_checks=[check])
        assert client.generate(CLIP, "Hello.").outcome is Outcome.ERROR_CLOSED
        (ended,) = records(client, "request_finished")
        assert [c.verdict for c in ended.checks] == ["failed"]

    def test_the_policy_s_budget_takes_the_place_of_the_check_s(
        self, opened: Open
    ) -> None:
        def slow(view: InputView) -> CheckResult:
            time.sleep(0.5)
            return ALLOW

        check = InputCheck(name="probe", run=slow, timeout_s=30)
        client = opened(policy=ruled(budget_s=0.05), input_checks=[check])
        assert client.generate(CLIP, "Hello.").outcome is Outcome.ERROR_CLOSED
        (ended,) = records(client, "request_finished")
        assert [c.verdict for c in ended.checks] == ["timed_out"]

    def test_a_check_that_the_policy_wants_has_to_be_there(self, opened: Open) -> None:
        with pytest.raises(ConfigurationError, match="probe"):
            opened(policy=ruled(on_flag="block"))
        opened(policy=ruled(on_flag="block", required=False))

    def test_an_output_check_cannot_raise(self, opened: Open) -> None:
        check = OutputCheck(name="probe", run=lambda view: ALLOW)
        with pytest.raises(ConfigurationError, match="too late"):
            opened(policy=ruled(on_flag="raise"), output_checks=[check])

    def test_a_policy_that_follows_is_held_to_as_well(self, opened: Open) -> None:
        client = opened()
        with pytest.raises(ConfigurationError, match="probe"):
            client.change_policy(ruled(on_flag="note"))

    def test_what_only_the_answer_shows_is_noted(self, opened: Open) -> None:
        check = OutputCheck(
            name="probe",
            run=lambda view: CheckResult(
                blocked=True, score=float(len(view.text)), threshold=0.0
            ),
        )
        client = opened(policy=ruled(on_flag="note"), output_checks=[check])
        reply = client.generate(CLIP, "Hello.", max_new_tokens=5)
        assert reply.outcome is Outcome.ANSWERED
        (ended,) = records(client, "request_finished")
        assert [(c.stage, c.verdict) for c in ended.checks] == [("output", "noted")]


class TestRaising:
    @pytest.mark.parametrize("raise_to", [Tier.STRICT, "strict"])
    def test_a_check_raises_the_tier(self, opened: Open, raise_to: Any) -> None:  # noqa: ANN401
        check = InputCheck(
            name="probe", run=lambda view: CheckResult(raise_to=raise_to)
        )
        client = opened(input_checks=[check])
        reply = client.generate(CLIP, "Hello.")
        assert (reply.guard.tier, reply.outcome) == ("strict", Outcome.ANSWERED)
        assert reply.guard.alpha >= FLOORS["strict"]
        started, ended = (
            records(client, kind)[0] for kind in ("request_started", "request_finished")
        )
        assert started.policy.tier == ended.dose.tier == "strict"
        assert ended.dose.alpha == pytest.approx(reply.guard.alpha, abs=1e-6)
        assert [(c.verdict, c.raised_to) for c in ended.checks] == [
            ("raised", "strict")
        ]
        assert ended.receipt.attested

    def test_a_check_raises_the_coefficient(self, opened: Open) -> None:
        check = InputCheck(name="probe", run=lambda view: CheckResult(raise_to=0.4))
        client = opened(input_checks=[check])
        reply = client.generate(CLIP, "Hello.")
        assert reply.guard.alpha == pytest.approx(0.4)
        assert reply.guard.tier == "balanced"
        (ended,) = records(client, "request_finished")
        assert [c.raised_to for c in ended.checks] == ["0.4"]

    def test_a_lower_wish_changes_nothing(self, opened: Open) -> None:
        low = InputCheck(
            name="probe", run=lambda view: CheckResult(raise_to="permissive")
        )
        lower = InputCheck(name="other", run=lambda view: CheckResult(raise_to=0.001))
        plain = opened()
        before = plain.generate(CLIP, "Hello.")
        plain.close()
        client = opened(input_checks=[low, lower])
        reply = client.generate(CLIP, "Hello.")
        assert reply.guard.tier == before.guard.tier == "balanced"
        assert reply.guard.alpha == before.guard.alpha
        assert reply.text == before.text

    def test_the_policy_s_wish_takes_the_place_of_the_check_s(
        self, opened: Open
    ) -> None:
        client = opened(
            policy=ruled(on_flag="raise", raise_to="maximum"),
            input_checks=[scored(0.9)],
        )
        assert client.generate(CLIP, "Hello.").guard.tier == "maximum"

    def test_a_constant_dose_is_raised_too(self, opened: Open) -> None:
        check = InputCheck(
            name="probe", run=lambda view: CheckResult(raise_to="strict")
        )
        client = opened(policy=None, alpha=0.3, input_checks=[check])
        reply = client.generate(CLIP, "Hello.")
        assert reply.guard.tier == "strict"
        assert reply.guard.alpha >= 0.3

    @given(
        st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
        st.lists(st.floats(-3, 3), min_size=4, max_size=4),
        st.lists(st.none() | st.floats(-3, 3), min_size=2, max_size=2),
        st.floats(0, 1),
        st.floats(-5, 5),
    )
    def test_a_raised_dose_is_nowhere_lower(
        self,
        ends: list[float],
        scores: list[float],
        blocks: list[float | None],
        alpha: float,
        score: float,
    ) -> None:
        rules = [
            DoseRule(
                floor=min(ends[i : i + 2]),
                ceiling=max(ends[i : i + 2]),
                low=min(scores[i : i + 2]),
                high=max(scores[i : i + 2]) + 0.01,
                block=blocks[i // 2],
            )
            for i in (0, 2)
        ]
        specs = [DoseSpec(rule=rule) for rule in rules]
        raised = specs[0].raised(rule=rules[1], alpha=alpha).decide(score)
        for spec in specs:
            found = spec.decide(score)
            assert raised.alpha >= found.alpha - 1e-9
            assert raised.blocked or not found.blocked
        assert raised.alpha >= alpha


class TestTranscripts:
    def test_a_clip_is_transcribed_once_in_a_request(self, opened: Open) -> None:
        heard: list[int] = []

        def hear(clip: np.ndarray, rate: int) -> str:
            heard.append(len(clip))
            return "hello"

        def everything(view: InputView) -> CheckResult:
            words = [view.words_of(turn) for turn in view.turns]
            assert words == ["hello\nFirst.", "", "hello\nhello\nSecond."]
            assert view.transcript == "hello hello"
            return ALLOW

        client = opened(
            transcriber=SpeechRecogniser(run=hear, name="ears", version="7"),
            input_checks=[InputCheck(name="probe", run=everything)],
        )
        first = Turn(role="user", text="First.", audio=(CLIP[0],))
        other = (CLIP[0] / 2, CLIP[1])
        client.generate(
            [CLIP, other],
            "Second.",
            history=[first, Turn(role="assistant", text="")],
        )
        assert heard == [len(CLIP[0]), len(CLIP[0])]
        (ended,) = records(client, "request_finished")
        assert [(c.name, c.version, c.stage, c.verdict) for c in ended.checks] == [
            ("ears", "7", "transcript", "transcribed"),
            ("probe", "1", "input", "allowed"),
        ]

    def test_time_spent_on_hearing_is_not_the_check_s(self, opened: Open) -> None:
        def hear(clip: np.ndarray, rate: int) -> str:
            time.sleep(0.4)
            return "hello"

        check = InputCheck(
            name="probe", run=lambda view: ALLOW if view.words else BLOCK, timeout_s=0.2
        )
        client = opened(transcriber=hear, input_checks=[check])
        assert client.generate(CLIP, "Hello.").outcome is Outcome.ANSWERED

    @pytest.mark.parametrize(
        ("run", "verdict"),
        [
            (lambda clip, rate: time.sleep(1), "timed_out"),
            (lambda clip, rate: 1 / 0, "failed"),
            (lambda clip, rate: None, "failed"),
        ],
    )
    def test_a_recogniser_that_fails_lets_no_check_pass(
        self,
        opened: Open,
        run: Any,  # noqa: ANN401
        verdict: str,
    ) -> None:
        check = InputCheck(
            name="probe", run=lambda view: BLOCK if "bomb" in view.words else ALLOW
        )
        client = opened(
            transcriber=SpeechRecogniser(run=run, timeout_s=0.1), input_checks=[check]
        )
        assert client.generate(CLIP, "Hello.").outcome is Outcome.ERROR_CLOSED
        (ended,) = records(client, "request_finished")
        assert [c.verdict for c in ended.checks] == [verdict, verdict]

    def test_words_without_a_recogniser_do_not_pass(self, opened: Open) -> None:
        check = InputCheck(
            name="probe", run=lambda view: ALLOW if view.words else BLOCK
        )
        client = opened(input_checks=[check])
        assert client.generate(text="Hello.").outcome is Outcome.ANSWERED
        assert client.generate(CLIP, "Hello.").outcome is Outcome.ERROR_CLOSED


class TestServices:
    @pytest.mark.parametrize("kind", ["check", "transcriber"])
    @pytest.mark.parametrize("given", [True, False])
    def test_content_goes_to_no_service_that_the_policy_does_not_name(
        self, opened: Open, kind: str, given: bool
    ) -> None:
        options: dict[str, Any] = {"policy": policy()} if given else {"policy": None}
        if kind == "check":
            options["input_checks"] = [
                InputCheck(name="probe", run=lambda view: ALLOW, remote="acme")
            ]
        else:
            options["transcriber"] = SpeechRecogniser(
                run=lambda clip, rate: "", remote="acme"
            )
        with pytest.raises(ConfigurationError, match=r"services: \[acme\]"):
            opened(**options)
        options["policy"] = policy(checks={"services": ["acme"]})
        client = opened(**options)
        assert client.generate(CLIP, "Hello.").outcome is Outcome.ANSWERED

    @pytest.mark.parametrize("kind", ["check", "transcriber"])
    def test_a_service_that_an_override_named_is_not_asked_after_it(
        self, opened: Open, kind: str
    ) -> None:
        asked: list[str] = []

        def ask(*_given: object) -> Any:  # noqa: ANN401
            asked.append("acme")
            return ALLOW if kind == "check" else ""

        remote = {"remote": "acme"}
        checks = (
            [InputCheck(name="probe", run=ask, **remote)]  # type: ignore[arg-type]
            if kind == "check"
            else [InputCheck(name="probe", run=lambda v: ALLOW if v.words else BLOCK)]
        )
        now = datetime.now(UTC)
        override = Override(
            reason="the service is tried out",
            by="dr.lee",
            issued_at=now,
            expires_at=now + timedelta(seconds=1.5),
            changes={"checks": {"services": ["acme"]}},
        )
        from sarguard.policy.overrides import PolicyInForce

        client = opened(
            policy=PolicyInForce(policy=policy()).overridden(override),
            input_checks=checks,
            transcriber=SpeechRecogniser(run=ask, **remote)  # type: ignore[arg-type]
            if kind == "transcriber"
            else None,
        )
        assert client.generate(CLIP, "Hello.").outcome is Outcome.ANSWERED
        assert asked == ["acme"]
        time.sleep(max(0.0, 1.6 - (datetime.now(UTC) - now).total_seconds()))
        assert client.generate(CLIP, "Hello.").outcome is Outcome.ERROR_CLOSED
        assert asked == ["acme"]


@pytest.mark.parametrize(
    "given", [{"raise_to": -1.0}, {"raise_to": "none"}, {"threshold": float("nan")}]
)
def test_a_result_makes_sense(given: dict[str, Any]) -> None:
    with pytest.raises(SarguardError):
        CheckResult(**given)


def test_a_verdict_without_a_score_is_written_as_before() -> None:
    verdict = CheckVerdict(name="a", version="1", stage="input", verdict="allowed")
    assert verdict.model_dump(exclude_none=True) == {
        "name": "a",
        "version": "1",
        "stage": "input",
        "verdict": "allowed",
    }
