"""Checks beside the gate: of what comes in, and of what goes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.client import SafeAudioLLM
from sarguard.errors import ConfigurationError
from sarguard.guard.check_runner import Checks
from sarguard.guard.checks import (
    ALLOW,
    BLOCK,
    CheckResult,
    InputCheck,
    InputView,
    OutputCheck,
    OutputView,
    phrase_check,
    secrets_check,
)
from sarguard.serving.request import RequestContext
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Done, Outcome, Refusal, TextDelta, Turn
from tests.guard.conftest import policy, records
from tests.serving.fakes import FakeBackend

CARD = "4111 1111 1111 1111"
Open = Callable[..., SafeAudioLLM]


@pytest.fixture
def opened(calm_bundle: SteeringBundle, tmp_path: Path) -> Iterator[Open]:
    clients: list[SafeAudioLLM] = []

    def open_client(says: str = "It is noon.", **options: Any) -> SafeAudioLLM:  # noqa: ANN401
        backend = FakeBackend(
            says,
            vectors_digest=calm_bundle.card.vectors_digest,
            layers=calm_bundle.card.layers,
        )
        settings = {"policy": policy(), "audit": tmp_path / "audit.db", **options}
        clients.append(SafeAudioLLM(backend, calm_bundle, **settings))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


def spoken(client: SafeAudioLLM, **request: Any) -> tuple[str, Any]:  # noqa: ANN401
    """Return what went out before the end, and the reply."""
    events = list(client.stream(**request))
    assert isinstance(events[-1], Done)
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    return said, events[-1].reply


def out(text: str, *, final: bool = False) -> OutputView:
    return OutputView(text=text, final=final, context=RequestContext())


async def later(view: InputView) -> CheckResult:
    await asyncio.sleep(0)
    return BLOCK if "bomb" in view.text else ALLOW


class TestInput:
    def test_a_block_ends_the_request_and_stands_in_the_record(
        self, opened: Open
    ) -> None:
        client = opened(input_checks=[InputCheck(name="words", version="3", run=later)])
        assert client.generate(text="Hello.").outcome is Outcome.ANSWERED
        reply = client.generate(text="A bomb.")
        assert (reply.outcome, reply.usage.output_tokens) == (Outcome.BLOCKED, 0)
        good, bad = records(client, "request_finished")
        assert (bad.rule, bad.reason) == ("checks.words", "check")
        verdicts = [(c.name, c.version, c.stage, c.verdict) for c in good.checks]
        assert verdicts == [("words", "3", "input", "allowed")]
        assert [c.verdict for c in bad.checks] == ["blocked"]

    def test_shadow_mode_notes_it_and_answers(self, opened: Open) -> None:
        client = opened(
            policy=policy(mode="shadow"),
            input_checks=[InputCheck(name="words", run=later)],
        )
        reply = client.generate(text="A bomb.")
        assert reply.outcome is Outcome.ANSWERED
        assert reply.guard.would_block == "checks.words"

    def test_the_transcript_is_made_once_and_only_when_asked_for(
        self, opened: Open
    ) -> None:
        heard: list[int] = []

        def transcribe(clip: np.ndarray, rate: int) -> str:
            heard.append(rate)
            return "how do I build a bomb"

        def check(view: InputView) -> CheckResult:
            return BLOCK if "bomb" in (view.transcript or "") else ALLOW

        clip = (np.sin(np.arange(8000) / 9).astype(np.float32) / 4, 16_000)
        idle = opened(transcriber=transcribe)
        idle.generate(audio=clip)
        assert heard == []
        idle.close()
        first = InputCheck(
            name="one", run=lambda v: ALLOW if v.transcript is not None else BLOCK
        )
        client = opened(
            transcriber=transcribe,
            input_checks=[first, InputCheck(name="two", run=check)],
        )
        assert client.generate(audio=clip).outcome is Outcome.BLOCKED
        assert heard == [16_000]
        assert client.generate(text="Hello.").outcome is Outcome.ANSWERED

    @pytest.mark.parametrize("how", ["raises", "hangs", "returns nonsense"])
    @pytest.mark.parametrize("opens", [False, True])
    def test_a_check_that_fails_has_not_passed(
        self, opened: Open, how: str, opens: bool
    ) -> None:
        def check(view: InputView) -> Any:  # noqa: ANN401
            if how == "raises":
                raise OSError("the classifier is down")
            if how == "hangs":
                time.sleep(2)
            return True

        soon = datetime.now(UTC) + timedelta(hours=1)
        lenient = {
            "on_fault": "open",
            "open_reason": "the classifier moves",
            "open_until": soon,
        }
        client = opened(
            policy=policy(failure=lenient) if opens else policy(),
            input_checks=[InputCheck(name="slow", run=check, timeout_s=0.2)],
        )
        reply = client.generate(text="Hello.")
        assert reply.outcome is (Outcome.ERROR_OPEN if opens else Outcome.ERROR_CLOSED)
        (ended,) = records(client, "request_finished")
        expected = "timed_out" if how == "hangs" else "failed"
        assert [c.verdict for c in ended.checks] == [expected]


class TestOutput:
    def test_a_piece_goes_out_only_after_its_checks(self, opened: Open) -> None:
        seen: list[str] = []

        def check(view: OutputView) -> CheckResult:
            seen.append(view.text)
            return BLOCK if "noon" in view.text else ALLOW

        client = opened(output_checks=[OutputCheck(name="noon", run=check)])
        events = list(client.stream(text="What time is it?"))
        said = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert "It is noon.".startswith(said)
        assert "noon" not in said
        assert isinstance(events[-2], Refusal)
        reply = events[-1].reply  # type: ignore[union-attr]
        assert (reply.outcome, reply.finish_reason) == (Outcome.BLOCKED, "blocked")
        assert "noon" not in reply.text
        (ended,) = records(client, "request_finished")
        assert (ended.rule, ended.reason) == ("checks.noon", "check")
        assert ended.receipt.attested
        assert [(c.stage, c.verdict) for c in ended.checks] == [("output", "blocked")]
        assert seen == sorted(seen, key=len)

    def test_what_passes_leaves_one_verdict_and_the_whole_text(
        self, opened: Open
    ) -> None:
        _, output = phrase_check("words", ["noontide"])
        client = opened(output_checks=[output])
        said, reply = spoken(client, text="When?")
        assert said == reply.text == "It is noon."
        (ended,) = records(client, "request_finished")
        assert [c.verdict for c in ended.checks] == ["allowed"]

    def test_a_failing_one_keeps_the_answer(self, opened: Open) -> None:
        def check(view: OutputView) -> CheckResult:
            raise OSError("down")

        client = opened(output_checks=[OutputCheck(name="down", run=check)])
        said, reply = spoken(client, text="When?")
        assert (said, reply.outcome) == ("", Outcome.ERROR_CLOSED)

    @pytest.mark.parametrize("end", [SystemExit, asyncio.CancelledError])
    def test_one_that_ends_its_thread_costs_one_answer(
        self, opened: Open, end: type[BaseException]
    ) -> None:
        ends = iter([True])

        async def check(view: OutputView) -> CheckResult:
            if next(ends, False):
                raise end
            return ALLOW

        client = opened(output_checks=[OutputCheck(name="down", run=check)])
        reply = client.generate(text="When?", timeout=10)
        assert (reply.outcome, reply.finish_reason) == (Outcome.ERROR_CLOSED, "error")
        assert end.__name__ in (reply.guard.fault or "")
        assert client.generate(text="When?", timeout=10).outcome is Outcome.ANSWERED
        failed, _ = records(client, "request_finished")
        assert [c.verdict for c in failed.checks] == ["failed"]


class TestPhrases:
    def test_no_word_of_a_phrase_is_spoken(self, opened: Open) -> None:
        client = opened(
            "The code is open sesame now.",
            output_checks=[phrase_check("code", ["Open Sesame"])[1]],
        )
        said, reply = spoken(client, text="The code?")
        assert said == "The code is "
        assert reply.outcome is Outcome.BLOCKED

    def test_the_input_side_reads_words_whatever_their_case(self, opened: Open) -> None:
        check, _ = phrase_check("code", ["open sesame"], patterns=[r"pass\w+ \d+"])
        client = opened(input_checks=[check])
        for text in ("OPEN  sesame!", "password 12"):
            assert client.generate(text=text).outcome is Outcome.BLOCKED
        assert client.generate(text="open sesames").outcome is Outcome.ANSWERED

    @pytest.mark.parametrize(
        ("phrase", "text", "blocks"),
        [
            ("straße", "die Straße hier", True),
            ("straße", "DIE STRASSE", True),
            ("C++", "learn C++ now", True),
            ("(sic)", "so (SIC) it is", True),
            ("bomb", "the bomb", True),
            ("bomb", "a bomb.", True),
            ("bomb", "a bombastic day", False),
        ],
    )
    def test_a_phrase_is_found_whole_and_in_pieces(
        self, opened: Open, phrase: str, text: str, blocks: bool
    ) -> None:
        check, output = phrase_check("words", [phrase])
        client = opened(text, output_checks=[output])
        said, reply = spoken(client, text="Tell me.")
        assert (reply.outcome is Outcome.BLOCKED) is blocks
        assert said == (text[: len(said)] if blocks else text)
        assert phrase.casefold() not in said.casefold() or not blocks
        view = InputView(
            (Turn(role="user", text=text),),
            RequestContext(),
            sample_rate=16_000,
            transcriber=None,
        )
        assert check.run(view) == (BLOCK if blocks else ALLOW)

    @pytest.mark.parametrize(
        "given",
        [{}, {"phrases": [" "]}, {"phrases": "bomb"}, {"patterns": ["("]}],
    )
    def test_a_list_makes_sense(self, given: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            phrase_check("words", **given)


class TestSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            f"It is {CARD}, exp 12/30",
            "5500-0000-0000-0004 is the card",
            f"card {CARD} 12/30 123",
            "3782 822463 10005",
            "use sk-proj-abcdefghijklmnop1234",
            "AKIAIOSFODNN7EXAMPLE",
            "-----BEGIN RSA PRIVATE KEY-----",
            "token eyJhbGciOiJIUzI1.eyJzdWIiOiIx.SflKxwRJ",
        ],
    )
    def test_what_looks_like_one_is_not_said(self, opened: Open, text: str) -> None:
        client = opened(text + " and so on.", output_checks=[secrets_check()])
        said, reply = spoken(client, text="Tell me.", max_new_tokens=200)
        assert reply.outcome is Outcome.BLOCKED
        digits = [c for c in said if c.isdigit()]
        assert len(digits) < 4
        assert text not in said

    @pytest.mark.parametrize(
        "text",
        [
            "Call 0800 123 456 at 9:30.",
            "Pi is 3.14159265358979323846.",
            "Order 4111 1111 1111 1112 is on its way.",
            "The antidisestablishmentarianism of 1869.",
            "In 2024, 1000000 people came.",
        ],
    )
    def test_ordinary_numbers_are_said_whole(self, opened: Open, text: str) -> None:
        client = opened(text, output_checks=[secrets_check()])
        said, reply = spoken(client, text="Tell me.", max_new_tokens=200)
        assert (reply.outcome, said, reply.text) == (Outcome.ANSWERED, text, text)

    @given(st.text(alphabet=" 0123456789-x.", max_size=60))
    def test_no_digit_of_a_card_leaves_before_the_card_is_seen(self, tail: str) -> None:
        check = secrets_check()
        text = f"a {CARD}{tail}"
        gone = 0
        for end in range(1, len(text) + 1):
            result = check.run(out(text[:end]))
            assert isinstance(result, CheckResult)
            if result.blocked:
                break
            gone = max(gone, end - result.hold)
        assert gone <= len("a ")


@given(st.text(alphabet=" 0123456789-", max_size=50), st.integers(1, 7))
def test_a_card_is_seen_however_the_text_is_cut(text: str, size: int) -> None:
    check = secrets_check()
    whole = check.run(out(text, final=True))
    ends = [*range(size, len(text), size), len(text)]
    pieces = [check.run(out(text[:end])) for end in ends]
    assert any(p.blocked for p in pieces) == whole.blocked  # type: ignore[union-attr]


def test_two_checks_of_one_name_are_an_error() -> None:
    check = InputCheck(name="words", run=later)
    with pytest.raises(ConfigurationError, match="words"):
        Checks(input=(check, check))


@pytest.mark.parametrize(
    "given",
    [{"name": "Words"}, {"name": "w", "version": ""}, {"name": "w", "timeout_s": 0}],
)
def test_a_check_has_a_name_a_version_and_a_time(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="check named"):
        InputCheck(run=later, **given)
