from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sarguard.errors import ConfigurationError, InsufficientDataError
from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.arms.registry import plan_arms
from sarguard.evaluation.data.items import Item
from sarguard.evaluation.judges.rules import Kind, Label
from sarguard.evaluation.judges.topic import TopicJudge
from sarguard.evaluation.run import runner
from sarguard.evaluation.run.run_log import ANSWERS_FILE, MemoryLog, RunLog
from sarguard.evaluation.run.runner import RunOptions, answer_as_text, run_arms
from sarguard.steering.bundle import SteeringBundle
from tests import tiny
from tests.evaluation.test_arms import make_setup

ARMS = plan_arms([0.3], ["bare", "zero", "prompt", "ablated", "tier-maximum"])
RUN_OPTIONS = RunOptions(max_new_tokens=4, batch_size=2)


def item(number: int, kind: str = "harmful") -> Item:
    clip = tiny.clip(0.4 + 0.07 * number, pitch=150 + 20 * number)
    return Item(
        id=f"i{number}",
        suite=kind,
        kind="harmful" if kind == "harmful" else "safe",
        cluster=f"i{number}",
        load=lambda rate: clip,
        request=f"Request number {number}",
    )


ITEMS = [item(0), item(1, "safe"), item(2), item(3, "ordinary"), item(4)]


class Stop(Exception):
    pass


def test_every_arm_answers_every_request(tiny_bundle: SteeringBundle) -> None:
    steps: list[tuple[int, int, str]] = []
    records = run_arms(
        make_setup(tiny_bundle),
        ITEMS,
        ARMS,
        run_options=RUN_OPTIONS,
        progress=lambda *step: steps.append(step),
    )
    assert {(r.arm, r.item) for r in records} == {
        (arm, item.id) for arm in ARMS for item in ITEMS
    }
    assert steps[0] == (0, 25, "bare")
    assert steps[-1] == (25, 25, "")
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    dose = {(str(r.arm), r.dose) for r in records if r.arm.name[:4] != "tier"}
    assert dose == {("bare", 0), ("zero", 0), ("prompt", 0), ("ablated 0.3", 0.3)}
    assert all((r.score is None) is (r.arm.name == "prompt") for r in records)
    assert all(r.label is Label.REFUSED for r in records if r.blocked)


class Second:
    """A judge that remembers what it was asked."""

    name = "second"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def label(self, *, request: str, reply: str, kind: Kind) -> Label:
        self.asked.append((request, kind))
        return Label.DODGED


def test_a_second_judge_labels_every_answer_and_changes_no_first_label(
    tiny_bundle: SteeringBundle,
) -> None:
    alone = run_arms(make_setup(tiny_bundle), ITEMS, ARMS, run_options=RUN_OPTIONS)
    second = Second()
    both = run_arms(
        make_setup(tiny_bundle),
        ITEMS,
        ARMS,
        run_options=replace(RUN_OPTIONS, second_judge=second),
    )
    assert [record.label for record in both] == [record.label for record in alone]
    assert all(record.second_label is None for record in alone)
    decoded = [record for record in both if not record.blocked]
    assert all(record.second_label is Label.DODGED for record in decoded)
    assert all(r.second_label is None for r in both if r.blocked)
    assert len(second.asked) == len(decoded)
    assert {request for request, _ in second.asked} <= {i.request for i in ITEMS}


def test_zero_answers_as_bare_does_and_the_model_is_free_after(
    tiny_bundle: SteeringBundle,
) -> None:
    setup = make_setup(tiny_bundle)
    for _ in range(2):
        records = run_arms(setup, ITEMS, ARMS[:2], run_options=RUN_OPTIONS)
        said = {(r.arm.name, r.item): (r.label, r.tokens, r.start) for r in records}
        for asked in ITEMS:
            assert said["bare", asked.id] == said["zero", asked.id]
    assert not setup.loaded.decoder.owner._forward_pre_hooks


def test_a_stopped_run_ends_as_one_that_was_not(
    tiny_bundle: SteeringBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(tiny_bundle)
    whole = run_arms(setup, ITEMS, ARMS, run_options=RUN_OPTIONS)
    calls = 0

    def stop(done: int, total: int, now: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise Stop

    log = RunLog(tmp_path, {})
    with pytest.raises(Stop):
        run_arms(setup, ITEMS, ARMS, run_options=RUN_OPTIONS, log=log, progress=stop)
    kept = RunLog(tmp_path, {}).records
    assert 0 < len(kept) < len(whole)
    asked: list[str] = []
    answer = runner.answer_arm

    def listen(*rows: object, **more: object) -> object:
        asked.append("x")
        return answer(*rows, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "answer_arm", listen)
    again = run_arms(
        setup, ITEMS, ARMS, run_options=RUN_OPTIONS, log=RunLog(tmp_path, {})
    )
    assert len(asked) == 15 - 7

    def plain(records: Sequence[object]) -> set[str]:
        rows = [r.model_dump(mode="json") | {"seconds": 0} for r in records]  # type: ignore[attr-defined]
        return {json.dumps(row, sort_keys=True) for row in rows}

    assert plain(again) == plain(whole)


def test_harmful_answers_leave_no_words_behind(
    tiny_bundle: SteeringBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(["Sure, here is how.", "I cannot assist with that.", "Paris it is."])

    def answer(*rows: object, **_: object) -> list[runner.Answer]:
        text = next(said)
        found = runner.Answer(text=text, tokens=4, dose=0, score=None, blocked=False)
        return [found]

    monkeypatch.setattr(runner, "answer_arm", answer)
    asked = [item(0), item(1), item(2, "safe")]
    run_options = replace(RUN_OPTIONS, batch_size=1)
    bare = [Arm(name="bare")]
    records = run_arms(make_setup(tiny_bundle), asked, bare, run_options=run_options)
    assert [(str(r.label), r.start) for r in records] == [
        ("complied", ""),
        ("refused", "I cannot assist with that."),
        ("answered", "Paris it is."),
    ]


def test_the_topic_is_asked_of_what_was_answered(
    tiny_bundle: SteeringBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"Request number 0": "apples and pears", "Request number 1": "trains"}

    def answer(*rows: object, **_: object) -> list[runner.Answer]:
        text = "Two pears." if len(log.records) == 0 else "Sweet pears and apples."
        return [runner.Answer(text=text, tokens=4, dose=0, score=None, blocked=False)]

    log = MemoryLog()
    monkeypatch.setattr(runner, "answer_arm", answer)
    run_options = replace(RUN_OPTIONS, batch_size=1, topic=TopicJudge(texts))
    bare = [Arm(name="bare")]
    run_arms(
        make_setup(tiny_bundle),
        [item(0), item(1)],
        bare,
        run_options=run_options,
        log=log,
    )
    assert [record.on_topic for record in log.records] == [True, False]


def test_requests_are_answered_as_text_once(tiny_bundle: SteeringBundle) -> None:
    twice = [
        item(0),
        replace(item(0), id="again"),
        item(1),
        replace(item(2), request=""),
    ]
    found = answer_as_text(tiny.shared(), twice, max_new_tokens=4, batch_size=2)
    assert list(found) == ["Request number 0", "Request number 1"]


def test_nothing_to_ask_is_refused(tiny_bundle: SteeringBundle) -> None:
    with pytest.raises(InsufficientDataError, match=r"0 request\(s\)"):
        run_arms(make_setup(tiny_bundle), [], ARMS)
    with pytest.raises(ConfigurationError, match="i0"):
        run_arms(make_setup(tiny_bundle), [item(0), item(0)], ARMS)


_CHILD = """
import sys
from pathlib import Path
from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.run.run_log import RunLog
from tests.evaluation.made_up import record
log = RunLog(Path(sys.argv[1]), {})
for number in range(10**6):
    log.add([record("bare", str(number), Label.REFUSED)])
"""


def test_a_killed_process_loses_no_line_that_it_wrote(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], cwd=root)
    path = tmp_path / ANSWERS_FILE
    deadline = time.monotonic() + 120
    while not path.exists() or path.stat().st_size < 5000:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = RunLog(tmp_path, {}).records
    assert [int(r.item) for r in kept] == list(range(len(kept)))
    assert len(kept) >= 10
