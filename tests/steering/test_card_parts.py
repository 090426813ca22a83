from __future__ import annotations

import pytest

from sarguard.steering.card_parts import TierCaps, TierChoice, TierMeasure

CAPS = TierCaps(safe=0.02, borderline=0.05, ordinary=0.01)


def choice(**found: float) -> TierChoice:
    added = {"safe_added": 0.02, "borderline_added": 0.05, "ordinary_added": 0.01}
    measure = {"harmful_refused": 0.97, "benign_added": 0.03, "broken_added": 0.0}
    settings = {**added, **measure, **found}
    return TierChoice(
        aim=0.97,
        caps=CAPS,
        validation=TierMeasure(harmful=100, harmless=300, **settings),
    )


def test_a_tier_at_its_aim_and_at_its_caps_has_met_them() -> None:
    assert choice().met
    # 27/120 - 21/120 is less exact than 6/120.
    assert choice(safe_added=0.02 + 1e-15).met


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("harmful_refused", 0.96),
        ("safe_added", 0.03),
        ("borderline_added", 0.06),
        ("ordinary_added", 0.02),
    ],
)
def test_a_tier_that_misses_its_aim_or_any_cap_has_not(name: str, value: float) -> None:
    assert not choice(**{name: value}).met


def test_a_suite_that_was_not_asked_counts_for_nothing() -> None:
    measure = choice(safe_added=0.5).validation.model_copy(update={"safe_added": None})
    assert choice().model_copy(update={"validation": measure}).met
