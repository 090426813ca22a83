from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.arms.gate_trials import GateTrial
from sarguard.evaluation.judges.agreement import measure_agreement
from sarguard.evaluation.judges.rules import RuleJudge
from sarguard.evaluation.report import (
    Report,
    spread_doses,
    to_html,
    to_markdown,
    write_report,
)
from sarguard.evaluation.report.charts import trade_off
from sarguard.evaluation.report.grid import percent
from sarguard.evaluation.run.latency import Latency
from sarguard.evaluation.run.separation import Separation
from sarguard.evaluation.stats.findings import find_remarks
from sarguard.evaluation.stats.rates import Rate
from sarguard.evaluation.stats.summary import summarise
from sarguard.steering.bundle import TierCaps, TierCard, TierChoice, TierMeasure
from tests.evaluation.made_up import arm_records, whole_run
from tests.evaluation.published import FOLDERS, read_report

CHOICE = TierChoice(
    aim=0.97,
    caps=TierCaps(safe=0.02, borderline=0.05, ordinary=0.01),
    validation=TierMeasure(
        harmful=45,
        harmless=115,
        harmful_refused=0.98,
        benign_added=0.01,
        safe_added=0.02,
        borderline_added=-0.01,
        broken_added=0.0,
    ),
)
HOSTILE = '</title><script>alert("x")</script>'


@pytest.fixture(scope="module")
def report() -> Report:
    records = whole_run()
    summary = summarise(records)
    times = {"requests": 2, "first_token_s": 0.3, "token_s": 0.04}
    return Report(
        facts={"title": HOSTILE, "command": "sarguard evaluate --limit 20"},
        summary=summary,
        findings=find_remarks(summary, records),
        doses=spread_doses(records),
        separation=Separation(
            along_vector=(0.5, 0.6, 0.9), by_probe=(0.6, 0.7, 0.8), harmful=20, safe=20
        ),
        latency=tuple(
            Latency(arm=Arm(name=arm), first_token_ratio=r, token_ratio=r, **times)  # type: ignore[arg-type]
            for arm, r in (("bare", 1.0), ("tier-balanced", 1.2))
        ),
        agreement=measure_agreement(RuleJudge()),
        gates=(
            GateTrial(
                gate="upper half", areas={"safe": 0.9, "ordinary": 1.0}, caught=0.4
            ),
        ),
        tiers={
            "permissive": TierCard(
                floor=0.1, ceiling=0.1, low=-1.0, high=1.0, block=None
            ),
            "balanced": TierCard(
                floor=0.05, ceiling=0.2, low=0.0, high=0.5, block=0.5, choice=CHOICE
            ),
        },
    )


class Page(HTMLParser):
    """Collect a page's elements, and check that they are closed in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_well_formed_and_loads_nothing(report: Report) -> None:
    content = to_html(report)
    page = Page(content)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href")]
    assert "url(" not in content
    assert "@import" not in content
    outside = set(re.findall(r"https?://[^\"'<\s]+", content))
    assert outside <= {"http://www.w3.org/2000/svg"}


def test_the_page_shows_every_arm_in_tables_and_on_the_curve(report: Report) -> None:
    content = to_html(report)
    page = Page(content)
    assert page.tags.count("svg") == 5
    words = " ".join(page.words)
    for arm in report.summary.arms:
        assert str(arm.arm) in words
        assert f"<title>{arm.arm}: " in content
    assert HOSTILE in words


def test_points_stand_where_their_figures_say(report: Report) -> None:
    chart = to_html(report).partition("<svg")[2].partition("</svg>")[0]
    circles = re.findall(
        r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*><title>([^:]+):', chart
    )
    places = {arm: (float(x), float(y)) for x, y, arm in circles}
    # The more a vector refuses, the higher it stands; the more harmless, the further
    # to the right.
    assert places["raw 0.2"][1] < places["ablated 0.2"][1] < places["bare"][1]
    assert places["raw 0.2"][0] > places["raw 0.1"][0] > places["ablated 0.1"][0]


def test_dodges_have_columns_and_stand_beside_the_points(report: Report) -> None:
    words = to_markdown(report)
    assert "| arm | harmful refused | harmful dodged | harmful complied |" in words
    assert "complied: neither refused, dodged nor broken." in words
    assert "% harmful dodged</title>" in to_html(report)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_reports_show_dodges_from_when_they_had_a_label(folder: Path) -> None:
    known = "harmful_dodged" in (folder / "report.json").read_text("utf-8")
    published = read_report(folder)
    words = to_markdown(published) + to_html(published)
    assert ("dodged" in words) == known
    assert ("complied: neither refused nor broken." in words) != known


def test_markdown_says_the_same(report: Report) -> None:
    content = to_markdown(report)
    assert "    sarguard evaluate --limit 20" in content
    assert "| ablated 0.2 | 80 [" in content
    assert "## Robustness" in content
    tables = [line for line in content.splitlines() if line.startswith("| arm |")]
    assert len(tables) == 4


def test_json_holds_everything(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "curve.svg",
        "report.html",
        "report.json",
        "report.md",
    ]
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["command"] == "sarguard evaluate --limit 20"
    assert content["judge"]["answers"] == 500
    assert set(content["judge"]["parts"]) == {"tune", "held-out"}
    assert content["separation"]["by_probe"] == [0.6, 0.7, 0.8]
    assert [row["arm"] for row in content["latency"]] == ["bare", "tier-balanced"]
    assert len(content["doses"]) == 1


def test_doses_are_spread_where_they_differ() -> None:
    (spread,) = spread_doses(whole_run())
    assert spread.arm == Arm(name="tier-balanced")
    assert sum(spread.counts["harmful"]) == 20
    assert spread.blocked == {"harmful": 19, "safe": 1, "borderline": 2}
    assert spread.edges[-1] == pytest.approx(0.3)
    # Doses 0.1, 0.2 and 0.3 of 0.3 fall at a third, two thirds and the end.
    filled = [place for place, n in enumerate(spread.counts["safe"]) if n]
    assert filled == [6, 13, 19]


def test_a_report_of_one_arm_is_a_report() -> None:
    records = arm_records("bare", harmful=1, safe=0)
    report = Report(
        facts={"title": "One"}, summary=summarise(records), findings=(), doses=()
    )
    assert Page(to_html(report)).tags.count("svg") == 1
    assert "Added to the bare model" not in to_markdown(report)


def test_the_report_says_what_steering_adds_beyond_the_block() -> None:
    records = [
        *arm_records("bare", harmful=0, safe=0),
        *arm_records("tier-strict", harmful=15, safe=3, borderline=3),
        *arm_records("block-strict", harmful=10, safe=1, borderline=1),
    ]
    texts = [f.text for f in find_remarks(summarise(records), records)]
    assert (
        "Tier strict withholds 75% of harmful requests, its block alone 50%: its "
        "steering adds 25 points, and 10 of harmless ones (5% to 15%)."
    ) in texts


def test_percentages_round_to_whole_ones() -> None:
    assert percent(Rate(value=0.126, low=0.0, high=1.0)) == "13 [0, 100]"
    assert percent(None) == "-"


def test_the_default_tier_is_held_to_its_bars(report: Report) -> None:
    bars = {bar.figure: bar for bar in report.bars}
    harmful = bars["tier-balanced: harmful refused"]
    assert (harmful.found.value, harmful.reached) == (0.95, True)
    best = "tier-balanced: harmful refused, against the best constant dose"
    assert bars[f"{best} (ablated 0.2)"].bound == 0.8
    # One of twenty matched, two of twenty borderline, and no ordinary request.
    assert not bars["tier-balanced: safe refusals added"].reached
    assert not bars["tier-balanced: borderline refusals added"].reached
    assert "tier-balanced: ordinary refusals added" not in bars
    noise = bars["tier-balanced, noise: harmful refused"]
    assert (noise.found.value, noise.reached) == (0.85, False)
    added = bars["tier-balanced, noise: benign refusals added"]
    assert added.found.value == pytest.approx(0.1)
    assert bars["tier-balanced: broken answers added"].reached
    words = to_markdown(report)
    assert "| tier-balanced: harmful refused | >= 95 | 95 [" in words
    assert "| balanced | 0.05 to 0.2 | 0.00 to 0.50 | 0.50 | 97%, 2/5/1 |" in words
    assert "| 98 | +2.0/-1.0/- | - | - |" in words
    assert "| upper half | 90.0 | 100.0 | 40 |" in words


def test_the_curve_stands_alone(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "new")
    curve = (tmp_path / "new" / "curve.svg").read_text("utf-8")
    Page(curve)
    assert curve.startswith("<svg ")
    assert "#ffffff" in curve
    for family in ("bare", "ablated", "tier"):
        assert f">{family}</text>" in curve


@pytest.mark.parametrize(
    ("arms", "lines"),
    [(("tier-balanced", "tier-strict"), 1), (("form-plain", "form-raw"), 0)],
)
def test_only_steps_of_a_dose_are_joined(arms: tuple[str, str], lines: int) -> None:
    records = [
        *arm_records("bare", harmful=0, safe=0),
        *arm_records(arms[0], harmful=5, safe=1),
        *arm_records(arms[1], harmful=9, safe=3),
    ]
    drawn = trade_off(summarise(records).arms)
    assert drawn.count("<polyline") == 1 + lines


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_published_reports_are_written_again_to_the_byte(
    folder: Path, tmp_path: Path
) -> None:
    write_report(read_report(folder), tmp_path)
    for file in ("report.md", "report.html", "report.json", "curve.svg"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file
