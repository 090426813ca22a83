"""Names in a chart: near their points, over nothing."""

import re

import hypothesis.strategies as st
from hypothesis import given

from sarguard.evaluation.report.labels import Mark, name_marks
from sarguard.evaluation.report.svg import Axes

AXES = Axes(x_range=(0, 1), y_range=(0, 1))
TEXT = re.compile(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>')


def named(*marks: Mark) -> dict[str, tuple[float, float]]:
    found = TEXT.findall("".join(name_marks(AXES, marks)))
    return {name: (float(x), float(y)) for x, y, name in found}


def mark(x: float, y: float, name: str, colour: str = "#000000") -> Mark:
    return Mark(x=x, y=y, name=name, colour=colour)


def test_a_lone_name_stands_beside_its_point() -> None:
    x, y = named(mark(200, 200, "strict"))["strict"]
    assert 200 < x < 215
    assert 180 < y < 200
    assert not any("<line" in part for part in name_marks(AXES, [mark(200, 200, "s")]))


def test_a_name_that_would_leave_the_chart_stands_on_the_other_side() -> None:
    x, _ = named(mark(AXES.width - 5, 200, "maximum"))["maximum"]
    assert x < AXES.width - 5


def test_points_at_one_place_share_a_name() -> None:
    assert list(named(mark(200, 200, "plain"), mark(200, 200, "norm"))) == [
        "plain, norm"
    ]
    other = named(mark(200, 200, "bare"), mark(200, 200, "zero", "#ffffff"))
    assert sorted(other) == ["bare", "zero"]


def test_a_name_that_stands_far_off_is_led_to() -> None:
    marks = [mark(200, 200 + 2 * i, f"form-number-{i}") for i in range(8)]
    assert any(part.startswith("<line") for part in name_marks(AXES, marks))


@given(st.lists(st.tuples(st.integers(100, 500), st.integers(60, 320)), max_size=12))
def test_no_name_covers_a_point_or_another_name(places: list[tuple[int, int]]) -> None:
    marks = [mark(x, y, f"arm {i}", f"#{i:06x}") for i, (x, y) in enumerate(places)]
    found = named(*marks)
    assert len(found) == len(marks)
    boxes = [(x, y - 10, x + 6.6 * len(name), y + 3) for name, (x, y) in found.items()]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for x, y in places:
            assert not (left < x < right and top < y < bottom)
        for other in boxes[:i]:
            apart_across = left >= other[2] - 0.2 or other[0] >= right - 0.2
            assert apart_across or top >= other[3] - 0.2 or other[1] >= bottom - 0.2
