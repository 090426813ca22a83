from __future__ import annotations

import pytest

from sarguard.errors import InsufficientDataError
from sarguard.evaluation import measuring
from sarguard.evaluation.arms import plan_arms
from sarguard.evaluation.judge import Label
from sarguard.evaluation.measuring import measure
from sarguard.steering.bundle import SteeringBundle
from tests import tiny
from tests.evaluation.test_arms import questions


def test_every_arm_labels_every_question_in_its_place(
    tiny_bundle: SteeringBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(0.9, 0.4, 0.6)
    steps: list[tuple[int, int, str]] = []

    def answer(*rows: object, alpha: float, **_: object) -> list[str]:
        batch = rows[2]
        assert isinstance(batch, measuring.Batch)
        return ["I cannot help." if place == 1 else "Yes." for place in batch.places]

    monkeypatch.setattr(measuring, "answer_batch", answer)
    found = measure(
        tiny.shared(),
        tiny_bundle.vectors,
        asked,
        plan_arms([0.1]),
        batch_size=2,
        progress=lambda *step: steps.append(step),
    )
    arms = [str(answers.arm) for answers in found]
    assert arms == ["bare", "raw 0.1", "ablated 0.1", "random 0.1"]
    expected = (Label.COMPLIED, Label.REFUSED, Label.COMPLIED)
    assert {a.labels for a in found} == {expected}
    assert steps[0] == (0, 12, "bare")
    assert steps[-1] == (12, 12, "")
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)


def test_a_measurement_leaves_the_model_free(tiny_bundle: SteeringBundle) -> None:
    loaded = tiny.shared()
    arms = plan_arms([0.1])
    first, second = (
        measure(
            loaded, tiny_bundle.vectors, questions(0.4, 0.6), arms, max_new_tokens=4
        )
        for _ in range(2)
    )
    assert [a.labels for a in first] == [a.labels for a in second]
    assert not loaded.decoder.owner._forward_pre_hooks


def test_nothing_to_ask_is_refused(tiny_bundle: SteeringBundle) -> None:
    with pytest.raises(InsufficientDataError, match=r"0 question\(s\)"):
        measure(tiny.shared(), tiny_bundle.vectors, [], plan_arms([0.1]))
