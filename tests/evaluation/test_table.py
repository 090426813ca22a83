from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from sarguard.errors import InsufficientDataError
from sarguard.evaluation.answering import Question
from sarguard.evaluation.arms import Arm, ArmName
from sarguard.evaluation.judge import Label
from sarguard.evaluation.markdown import percent, to_markdown
from sarguard.evaluation.measuring import ArmAnswers
from sarguard.evaluation.rates import Rate, bootstrap, mean_rate, tally
from sarguard.evaluation.table import Table, interpolate, tabulate

PAIRS = 20
SILENCE = np.zeros(1600, dtype=np.float32)


def questions(pairs: int = PAIRS) -> list[Question]:
    return [
        Question(pair=f"p{i}", kind=kind, audio=SILENCE)
        for i in range(pairs)
        for kind in ("harmful", "safe")
    ]


def answers(
    name: str, alpha: float, *, harmful: int, safe: int, broken: int = 0
) -> ArmAnswers:
    """Return an arm in which the first requests of each kind are refused."""
    labels: list[Label] = []
    for i in range(PAIRS):
        after = Label.BROKEN if i >= PAIRS - broken else Label.COMPLIED
        labels.append(Label.REFUSED if i < harmful else after)
        labels.append(Label.REFUSED if i < safe else Label.ANSWERED)
    arm = Arm(name=ArmName(name), alpha=alpha)
    return ArmAnswers(arm=arm, labels=tuple(labels), seconds=1.0)


@pytest.fixture(scope="module")
def table() -> Table:
    return tabulate(
        questions(),
        [
            answers("bare", 0, harmful=0, safe=0),
            answers("raw", 0.1, harmful=10, safe=8),
            answers("raw", 0.2, harmful=20, safe=18),
            answers("ablated", 0.2, harmful=16, safe=4, broken=2),
            answers("ablated", 0.1, harmful=8, safe=0),
        ],
    )


def test_rates_are_shares_of_each_kind(table: Table) -> None:
    row = table.rows[3]
    assert row.harmful_refused.value == pytest.approx(16 / 20)
    assert row.harmful_complied.value == pytest.approx(2 / 20)
    assert row.safe_refused.value == pytest.approx(4 / 20)
    assert row.broken.value == pytest.approx(2 / 40)
    assert row.balanced.value == pytest.approx((0.8 + 1 - 0.2) / 2)


def test_intervals_hold_their_rate_and_are_as_wide_as_they_should_be() -> None:
    flags = np.array([1.0] * 30 + [0.0] * 70)
    rate = mean_rate(flags)
    assert rate.low < rate.value < rate.high
    expected = 2 * 1.96 * math.sqrt(0.3 * 0.7 / 100)
    assert rate.high - rate.low == pytest.approx(expected, rel=0.1)
    assert mean_rate(flags) == rate


def test_vectors_are_matched_at_equal_harmful_refusals(table: Table) -> None:
    match = next(m for m in table.matches if m.harmful_refused == 0.7)
    assert match.raw is not None
    assert match.ablated is not None
    assert match.difference is not None
    # 0.7 lies 0.4 of the way from (0.5, 0.4) to (1.0, 0.9), and three quarters of
    # the way from (0.4, 0.0) to (0.8, 0.2).
    assert match.raw.value == pytest.approx(0.6)
    assert match.ablated.value == pytest.approx(0.15)
    assert match.difference.value == pytest.approx(0.45)
    assert match.difference.low <= 0.45 <= match.difference.high


def test_a_level_that_is_never_reached_has_no_match(table: Table) -> None:
    match = next(m for m in table.matches if m.harmful_refused == 0.9)
    assert match.raw is not None
    assert match.ablated is None
    assert match.difference is None


@pytest.mark.parametrize("left_out", ["bare", "raw", "ablated"])
def test_without_an_arm_there_is_no_comparison(left_out: str) -> None:
    arms: Sequence[ArmAnswers] = [
        answers("bare", 0, harmful=0, safe=0),
        answers("raw", 0.1, harmful=20, safe=18),
        answers("ablated", 0.1, harmful=20, safe=4),
    ]
    kept = [found for found in arms if found.arm.name.value != left_out]
    assert tabulate(questions(), kept).matches == ()


@pytest.mark.parametrize(
    ("points", "level", "expected"),
    [
        ([(0, 0), (1, 1)], 0.25, 0.25),
        ([(0, 0), (0.5, 0.1), (0.5, 0.3), (1, 1)], 0.5, 0.1),
        ([(0, 0), (0.8, 0.4), (0.2, 0.9), (0.9, 1.0)], 0.5, 0.25),
        ([(0.6, 0.2), (1, 1)], 0.5, math.nan),
        ([(0, 0), (0.4, 1)], 0.5, math.nan),
    ],
)
def test_interpolation_follows_the_doses(
    points: list[tuple[float, float]], level: float, expected: float
) -> None:
    assert interpolate(points, level) == pytest.approx(expected, nan_ok=True)


def test_a_request_without_its_twin_is_refused() -> None:
    lonely = questions()[:-1]
    with pytest.raises(InsufficientDataError, match="1 lack a twin"):
        tally(lonely, [Label.REFUSED] * len(lonely))


def test_a_figure_that_is_mostly_undefined_has_no_interval() -> None:
    def mostly_undefined(chosen: np.ndarray) -> float:
        return 1.0 if (chosen == np.arange(len(chosen))).all() else math.nan

    assert bootstrap(mostly_undefined, 10) is None


def test_the_table_is_json_without_an_answer_in_it(table: Table) -> None:
    content = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert content["pairs"] == PAIRS
    assert content["rows"][1]["arm"] == "raw"
    assert content["rows"][1]["alpha"] == 0.1
    assert content["matches"][0]["harmful_refused"] == 0.5


def test_markdown_has_a_row_an_arm(table: Table) -> None:
    lines = to_markdown(table).splitlines()
    assert sum(line.startswith("| raw |") for line in lines) == 2
    assert "| bare |  | 0 [0, 0] | 100 [100, 100] | 0 [0, 0] |" in "\n".join(lines)
    assert lines[0].startswith("20 pairs")


def test_percentages_round_to_whole_ones() -> None:
    assert percent(Rate(value=0.126, low=0.0, high=1.0)) == "13 [0, 100]"
    assert percent(None) == "-"
