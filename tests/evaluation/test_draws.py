from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sarguard.errors import ConfigurationError
from sarguard.evaluation.arms.arm import BARE, POLICY, Arm
from sarguard.evaluation.arms.registry import Setup, open_arm
from sarguard.evaluation.data.contexts import CONTEXTS, put_into
from sarguard.evaluation.data.items import AskOptions
from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.run import runner
from sarguard.evaluation.run.batch_answers import Answer, make_batches, make_rows
from sarguard.evaluation.run.draws import GREEDY, Draw, as_request, plan_draws
from sarguard.evaluation.run.run_log import RunLog
from sarguard.evaluation.run.runner import run_arms, words_of_json
from sarguard.guard.factory import effective_policy
from sarguard.policy.model import Policy
from sarguard.serving.request import GenerationRequest
from sarguard.steering.bundle import SteeringBundle
from tests import tiny
from tests.evaluation.test_arms import make_setup, questions
from tests.evaluation.test_runner import ITEMS, RUN_OPTIONS, item

TIER = Arm(name="tier-strict")
HOT = Draw(temperature=1.0, attempt=0)
SAMPLED = replace(RUN_OPTIONS, draws=plan_draws((1.0,), 3), max_new_tokens=6)


def test_greedy_is_there_once_and_each_temperature_as_often_as_asked() -> None:
    assert plan_draws((), 8) == (GREEDY,)
    assert plan_draws((1.0, 0.0, 0.7, 0.7), 2) == (
        GREEDY,
        Draw(temperature=0.7, attempt=0),
        Draw(temperature=0.7, attempt=1),
        HOT,
        Draw(temperature=1.0, attempt=1),
    )


def test_seeds_differ_by_request_and_try_and_repeat() -> None:
    draws = plan_draws((0.7, 1.0), 3)[1:]
    seeds = [
        as_request(asked, draw, max_new_tokens=4).sampling.seed
        for asked in ITEMS
        for draw in draws
    ]
    assert None not in seeds
    assert len(set(seeds)) == len(seeds)
    again = as_request(ITEMS[0], draws[0], max_new_tokens=4)
    assert again.sampling.seed == seeds[0]
    assert as_request(ITEMS[0], GREEDY, max_new_tokens=4).sampling.seed is None


def test_options_of_a_request_are_those_of_a_client() -> None:
    options = AskOptions(stop=("sorry",), max_new_tokens=3, json_schema={"a": 1})
    request = as_request(replace(ITEMS[0], options=options), HOT, max_new_tokens=9)
    assert isinstance(request, GenerationRequest)
    assert (request.stop, request.max_new_tokens) == (("sorry",), 3)
    assert request.json_schema == {"a": 1}
    assert request.sampling.temperature == 1.0


def test_harmful_requests_are_tried_again_and_harmless_ones_once(
    tiny_bundle: SteeringBundle,
) -> None:
    steps: list[tuple[int, int, str]] = []
    records = run_arms(
        make_setup(tiny_bundle),
        ITEMS,
        [BARE, TIER],
        varied=[TIER],
        run_options=SAMPLED,
        progress=lambda *step: steps.append(step),
    )
    found = {(str(r.arm), r.item, r.draw) for r in records}
    assert len(found) == len(records) == steps[-1][1] == 2 * 5 + 3 * 3 + 2
    tries = {(r.item, r.attempt) for r in records if r.temperature}
    harmful = [i.id for i in ITEMS if i.kind == "harmful"]
    assert tries == {(name, n) for name in harmful for n in range(3)} | {
        (i.id, 0) for i in ITEMS if i.kind != "harmful"
    }
    assert {r.arm for r in records if r.temperature} == {TIER}
    assert any("tier-strict, temperature 1, try 3" in step[2] for step in steps)


def test_sampled_answers_repeat_in_any_batch(tiny_bundle: SteeringBundle) -> None:
    setup = make_setup(tiny_bundle)

    def say(size: int) -> dict[tuple[str, Draw], tuple[Any, ...]]:
        options = replace(SAMPLED, batch_size=size)
        records = run_arms(setup, ITEMS, [BARE], run_options=options)
        return {(r.item, r.draw): (r.label, r.tokens, r.start) for r in records}

    assert say(2) == say(5)


def test_a_sampled_run_goes_on_where_it_was(
    tiny_bundle: SteeringBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(tiny_bundle)
    whole = run_arms(
        setup, ITEMS, [TIER], run_options=SAMPLED, log=RunLog(tmp_path, {})
    )
    file = tmp_path / "answers.jsonl"
    lines = file.read_text().splitlines()
    assert len(lines) == len(whole)
    # One batch of the second try is missing: only that is asked again.
    kept = [n for n, r in enumerate(whole) if r.attempt != 1 or r.item != "i4"]
    file.write_text("".join(f"{lines[n]}\n" for n in kept))
    asked: list[int] = []
    answer = runner.answer_arm

    def listen(*given: Any, **more: Any) -> list[Answer]:  # noqa: ANN401
        asked.append(len(given[2].places))
        return answer(*given, **more)

    monkeypatch.setattr(runner, "answer_arm", listen)
    again = run_arms(
        setup, ITEMS, [TIER], run_options=SAMPLED, log=RunLog(tmp_path, {})
    )
    assert len(asked) == 1

    def plain(records: Any) -> set[str]:  # noqa: ANN401
        return {r.model_copy(update={"seconds": 0}).model_dump_json() for r in records}

    assert plain(again) == plain(whole)


def test_a_policy_bounds_what_is_asked(tiny_bundle: SteeringBundle) -> None:
    policy = Policy.build(
        {
            "id": "clinic",
            "version": 1,
            "audit": {"required": False},
            "text": {"max_new_tokens": 3},
        }
    )
    policies = {"clinic": effective_policy(policy=policy)}
    setup: Setup = replace(make_setup(tiny_bundle), policies=policies)
    arm = open_arm(Arm(name=POLICY, policy="clinic"), setup)
    request = as_request(ITEMS[0], HOT, max_new_tokens=9)
    (row,) = make_rows(setup.loaded, arm, [request])
    resolved = arm.asked(request)
    assert row.max_new_tokens == resolved.max_new_tokens == 3
    assert row.sampling == resolved.sampling
    assert row.dose == resolved.dose == arm.dose
    bare = open_arm(BARE, setup)
    assert bare.asked(request).sampling == request.sampling
    assert bare.asked(request).max_new_tokens == 9


def test_a_refusal_that_a_stop_string_hides_is_withheld(
    tiny_bundle: SteeringBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(
        [
            ("I'm", "I'm sorry, I cannot help with that."),
            ("Sure, take a", "Sure, take a cannot opener."),
            ("I cannot help with that.", ""),
        ]
    )

    def answer(*_: object, **__: object) -> list[Answer]:
        text, whole = next(said)
        return [
            Answer(text=text, whole=whole, tokens=4, dose=0, score=None, blocked=False)
        ]

    monkeypatch.setattr(runner, "answer_arm", answer)
    asked = [item(0), item(1), item(2)]
    records = run_arms(
        make_setup(tiny_bundle),
        asked,
        [BARE],
        run_options=replace(RUN_OPTIONS, batch_size=1),
    )
    labels = [r.label for r in records]
    assert labels == [Label.REFUSED, Label.COMPLIED, Label.REFUSED]


def test_a_stop_string_ends_what_the_caller_gets(tiny_bundle: SteeringBundle) -> None:
    setup = make_setup(tiny_bundle)
    bare = open_arm(BARE, setup)
    (batch,) = make_batches(setup.loaded, questions(0.4), size=1)
    with bare.steerer:
        plain = runner.answer_arm(setup.loaded, bare, batch, max_new_tokens=12)[0]
        cut = next(c for c in plain.text[1:] if c.strip())
        request = GenerationRequest(max_new_tokens=12, stop=(cut,))
        stopped = runner.answer_arm(
            setup.loaded, bare, batch, max_new_tokens=12, requests=[request]
        )[0]
    assert plain.whole == ""
    assert stopped.text == plain.text.partition(cut)[0].rstrip()
    assert stopped.whole == plain.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"answer": "Mix the two.", "sure": true}', "Mix the two. , true"),
        ('{"answer": "I cannot hel', "I cannot hel"),
        ("I cannot help.", "I cannot help."),
    ],
)
def test_the_words_of_json_are_judged(text: str, words: str) -> None:
    assert words_of_json(text) == words


def test_a_structured_answer_follows_the_schema(tiny_bundle: SteeringBundle) -> None:
    pytest.importorskip("llguidance")
    (placed,) = put_into([item(0)], CONTEXTS["schema"])
    setup = make_setup(tiny_bundle)
    arm = open_arm(TIER, setup)
    request = as_request(placed, GREEDY, max_new_tokens=4)
    rows = make_rows(setup.loaded, arm, [request, request])
    assert all(row.matcher is not None for row in rows)
    assert rows[0].matcher is not rows[1].matcher


def test_a_batch_is_bounded_by_its_clips() -> None:
    loaded = tiny.shared()
    clip = tiny.clip(0.3)
    spoken = replace(item(0), load=lambda rate: clip)
    asked = [
        placed
        for name in ("alone", "turn-3", "clips-around")
        for placed in put_into(
            [replace(spoken, id=f"{name}{n}") for n in range(3)], CONTEXTS[name]
        )
    ]
    for size in (1, 4):
        batches = make_batches(loaded, asked, size=size)
        assert sorted(p for b in batches for p in b.places) == list(range(9))
        for batch in batches:
            clips = sum(asked[place].clips for place in batch.places)
            assert clips <= size or len(batch.places) == 1
    with pytest.raises(ConfigurationError, match="1 or more"):
        make_batches(loaded, asked, size=0)
