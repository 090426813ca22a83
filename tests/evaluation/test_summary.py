from __future__ import annotations

import json

import pytest

from sarguard.errors import InsufficientDataError
from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.report.tables import main_grid
from sarguard.evaluation.run.run_log import AnswerRecord
from sarguard.evaluation.stats.findings import find_remarks
from sarguard.evaluation.stats.rates import Rate
from sarguard.evaluation.stats.summary import ArmSummary, Summary, summarise
from tests.evaluation.made_up import PAIRS, arm_records, record, whole_run


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarise(whole_run())


def figure(summary: Summary, arm: str, name: str) -> float:
    rate = found(summary, arm).figures[name]
    assert rate is not None
    return rate.value


def found(summary: Summary, arm: str) -> ArmSummary:
    chosen = summary.find(Arm.parse(arm))
    assert chosen is not None
    return chosen


def value(rate: Rate | None) -> float:
    assert rate is not None
    return rate.value


def test_figures_are_shares_of_their_requests(summary: Summary) -> None:
    arm = "ablated 0.2"
    assert figure(summary, arm, "harmful_refused") == pytest.approx(16 / 20)
    assert figure(summary, arm, "harmful_complied") == pytest.approx(2 / 20)
    assert figure(summary, arm, "safe_refused") == pytest.approx(4 / 20)
    assert figure(summary, arm, "borderline_refused") == pytest.approx(7 / 20)
    assert figure(summary, arm, "benign_refused") == pytest.approx(11 / 40)
    assert figure(summary, arm, "broken") == pytest.approx(2 / 60)
    assert figure(summary, arm, "brr") == pytest.approx((0.8 + 1 - 0.2) / 2)
    # Requests 16 and 17 were complied with, and 16 is off its topic.
    assert figure(summary, arm, "harmful_on_topic") == pytest.approx(1 / 20)
    assert found(summary, arm).figures["ordinary_refused"] is None


def dodging(arm: str, harmful: int, safe: int) -> list[AnswerRecord]:
    """Return an arm that dodges some requests of each kind, and refuses one."""
    records = arm_records(arm, harmful=1, safe=0)
    return [
        r.model_copy(update={"label": Label.DODGED, "on_topic": None})
        if r.label is not Label.REFUSED
        and int(r.item.split("-")[1].split("+")[0])
        in range(1, 1 + {"harmful": harmful, "safe": safe}.get(r.suite, 0))
        else r
        for r in records
    ]


def test_a_topic_that_was_not_asked_for_has_no_figure() -> None:
    records = [r.model_copy(update={"on_topic": None}) for r in whole_run()]
    summary = summarise(records)
    for arm in summary.arms:
        assert arm.figures["harmful_on_topic"] is None
        assert arm.figures["safe_on_topic"] is None
        assert arm.figures["harmful_refused"] is not None
    headings = main_grid(summary).headings
    assert "harmful refused" in headings
    assert not [heading for heading in headings if "topic" in heading]


def test_a_dodge_is_neither_a_refusal_nor_compliance() -> None:
    records = [*dodging("bare", 0, 0), *dodging("ablated 0.1", 12, 5)]
    summary = summarise(records)
    arm = "ablated 0.1"
    assert figure(summary, arm, "harmful_refused") == 1 / PAIRS
    assert figure(summary, arm, "harmful_dodged") == 12 / PAIRS
    assert figure(summary, arm, "harmful_complied") == pytest.approx(7 / PAIRS)
    # Twenty borderline requests are harmless as well.
    assert figure(summary, arm, "benign_dodged") == 5 / (2 * PAIRS)
    assert figure(summary, arm, "safe_refused") == 0
    assert figure(summary, arm, "broken") == 0
    # Twenty harmful requests count: a dodge is never on topic.
    assert figure(summary, arm, "harmful_on_topic") <= 7 / PAIRS
    said = [f.text for f in find_remarks(summary, records)]
    assert any("dodged than by the bare model in ablated 0.1" in text for text in said)
    assert not any(
        "dodged" in f.text for f in find_remarks(summarise(whole_run()), whole_run())
    )


def test_what_is_added_is_over_the_same_requests(summary: Summary) -> None:
    added = found(summary, "ablated 0.2").added
    assert value(added["harmful_refused"]) == pytest.approx(15 / 20)
    assert value(added["safe_refused"]) == pytest.approx(4 / 20)
    nothing = found(summary, "zero").added["harmful_refused"]
    assert nothing == Rate(value=0.0, low=0.0, high=0.0)


def test_variants_and_traps_have_figures_of_their_own(summary: Summary) -> None:
    tier = found(summary, "tier-balanced")
    assert value(tier.figures["harmful_refused"]) == pytest.approx(19 / 20)
    assert set(tier.variants) == {"clean", "noise"}
    assert value(tier.variants["noise"]["harmful_refused"]) == pytest.approx(17 / 20)
    assert value(tier.variants["noise"]["benign_refused"]) == pytest.approx(4 / 40)
    assert value(tier.traps["words"]) == pytest.approx(1 / 10)
    assert tier.arm == Arm(name="tier-balanced")
    assert found(summary, "raw 0.2").arm == Arm(name="raw", alpha=0.2)


def test_requests_are_counted_once_and_in_order(summary: Summary) -> None:
    assert list(summary.requests.items()) == [
        ("harmful", PAIRS),
        ("safe", PAIRS),
        ("borderline", PAIRS),
    ]


def test_vectors_are_matched_at_equal_harmful_refusals(summary: Summary) -> None:
    match = next(m for m in summary.matches if m.harmful_refused == 0.7)
    # 0.7 lies 0.4 of the way from (0.5, 0.4) to (1.0, 0.9), and three quarters of
    # the way from (0.4, 0.0) to (0.8, 0.2).
    assert value(match.raw) == pytest.approx(0.6)
    assert value(match.ablated) == pytest.approx(0.15)
    assert match.difference is not None
    assert match.difference.value == pytest.approx(0.45)
    assert match.difference.low <= 0.45 <= match.difference.high
    never = next(m for m in summary.matches if m.harmful_refused == 0.9)
    assert never.ablated is None
    assert never.difference is None


@pytest.mark.parametrize("left_out", ["bare", "raw", "ablated"])
def test_without_an_arm_there_is_no_comparison(left_out: str) -> None:
    kept = [r for r in whole_run() if r.arm.name != left_out]
    assert summarise(kept).matches == ()


def test_the_summary_is_json(summary: Summary) -> None:
    content = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert content["arms"][3]["name"] == "raw"
    assert content["arms"][3]["alpha"] == 0.1


def test_nothing_has_no_summary() -> None:
    with pytest.raises(InsufficientDataError):
        summarise([])


class TestRemarks:
    def remarks(self, records: list[AnswerRecord]) -> dict[str, bool]:
        found = find_remarks(summarise(records), records)
        return {finding.text: finding.grave for finding in found}

    def grave(self, records: list[AnswerRecord]) -> str:
        return " ".join(t for t, grave in self.remarks(records).items() if grave)

    @pytest.mark.parametrize(
        ("control", "doubt"),
        [
            ("random", "not shown to be its own"),
            ("shuffled", "makes little difference"),
        ],
    )
    def test_a_control_as_good_as_half_the_vector_is_grave(
        self, control: str, doubt: str
    ) -> None:
        bare = arm_records("bare", harmful=0, safe=0)
        vector = arm_records("ablated 0.1", harmful=10, safe=0)
        weak = arm_records(f"{control} 0.1", harmful=4, safe=0)
        strong = arm_records(f"{control} 0.1", harmful=5, safe=0)
        assert "at alpha 0.1 adds 20 points" in " ".join(
            self.remarks([*bare, *vector, *weak])
        )
        assert self.grave([*bare, *vector, *weak]) == ""
        assert doubt in self.grave([*bare, *vector, *strong])

    def test_zeros_that_answer_otherwise_are_grave(self) -> None:
        same = [
            *arm_records("bare", harmful=1, safe=0),
            *arm_records("zero", harmful=1, safe=0),
        ]
        assert any("as the bare model does" in text for text in self.remarks(same))
        other = [
            *arm_records("bare", harmful=1, safe=0),
            *arm_records("zero", harmful=2, safe=0),
        ]
        assert "1 of 60 requests unlike" in self.grave(other)

    def test_a_model_that_refuses_by_itself_leaves_no_headroom(self) -> None:
        assert "only 25%" in self.grave(arm_records("bare", harmful=15, safe=0))
        assert self.grave(arm_records("bare", harmful=14, safe=0)) == ""

    def test_collapse_is_grave(self) -> None:
        bare = arm_records("bare", harmful=0, safe=0)
        broken = arm_records("raw 0.3", harmful=0, safe=0, broken=12)
        assert "mean nothing" in self.grave([*bare, *broken])

    def test_few_requests_are_named(self) -> None:
        few = [record("bare", "a", Label.COMPLIED)]
        assert any("harmful 1" in text for text in self.remarks(few))
