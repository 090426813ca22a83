from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sarguard.datasets import load_clips, load_sentences
from sarguard.errors import ConfigurationError
from sarguard.evaluation.data.items import Item, digest_items, with_text
from sarguard.evaluation.data.suites import SUITES, load_suites, user_suite
from sarguard.evaluation.data.variants import (
    ALL_VARIANTS,
    VARIANTS,
    add_noise,
    change_speed,
    limit_band,
    vary,
)
from tests import tiny


def test_every_suite_has_its_requests() -> None:
    items = load_suites()
    counts = {s: sum(item.suite == s for item in items) for s in SUITES}
    assert counts == {"harmful": 168, "safe": 168, "borderline": 168, "ordinary": 164}
    assert {i.kind for i in items if i.suite != "harmful"} == {"safe"}
    assert len({item.id for item in items}) == len(items)


def test_no_sentence_of_a_suite_is_in_calibration() -> None:
    heard = {c.text for c in load_clips("calibration")}
    heard |= {c.text for c in load_clips("borderline_calibration")}
    asked = {item.request for item in load_suites(voice=None)}
    assert not asked & heard
    assert asked <= load_sentences()


def test_validation_and_test_share_no_sentence_and_cover_every_topic() -> None:
    parts = {p: load_suites(part=p) for p in ("validation", "test")}  # type: ignore[arg-type]
    clusters = {p: {i.cluster for i in found} for p, found in parts.items()}
    assert not clusters["validation"] & clusters["test"]
    assert len(parts["validation"]) + len(parts["test"]) == len(load_suites())
    assert len(parts["validation"]) / len(load_suites()) == pytest.approx(
        1 / 3, abs=0.03
    )
    for found in parts.values():
        topics = {item.topic for item in found if item.suite == "harmful"}
        assert topics == {c.topic for c in load_clips("test", "harmful")}
        assert {i.topic for i in found if i.suite == "borderline"} == {"words", "topic"}


def test_a_limit_counts_pairs_and_requests_of_each_other_suite() -> None:
    items = load_suites(limit=4, voice=None)
    assert len(items) == 2 * (4 + 4 + 4 + 4)
    paired = [i for i in items if i.suite in ("harmful", "safe")]
    assert len({i.cluster for i in paired}) == 4


@pytest.mark.parametrize(
    "given",
    [
        {"names": ("harmful", "odd")},
        {"names": ("ordinary",), "split": "demo"},
        {"split": "ordinary"},
    ],
)
def test_a_choice_of_nothing_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        load_suites(**given)  # type: ignore[arg-type]


def test_pairs_of_ones_own_are_a_suite(tmp_path: Path) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", tiny.clip(0.5), tiny.RATE)
    manifest = tmp_path / "pairs.jsonl"
    manifest.write_text('{"harmful": "a.wav", "safe": "b.wav"}\n')
    harmful, safe = user_suite(manifest)
    assert (harmful.kind, safe.kind) == ("harmful", "safe")
    assert harmful.cluster == safe.cluster
    (turn,) = safe.turns(8_000)
    assert turn.audio[0].shape == (4_000,)


def an_item() -> Item:
    return load_suites(("harmful",), limit=1)[0]


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_repeats_and_can_be_heard(name: str) -> None:
    item = an_item()
    (first,), (second,) = vary([item], name), vary([item], name)
    assert first.id == f"{item.id}+{name}"
    assert (first.variant, first.kind, first.cluster) == (
        name,
        item.kind,
        item.cluster,
    )
    turns, again = first.turns(16_000), second.turns(16_000)
    assert [t.text for t in turns] == [t.text for t in again]
    clip = turns[-1].audio[0]
    np.testing.assert_array_equal(clip, again[-1].audio[0])
    assert clip.dtype == np.float32
    assert 0.1 < np.abs(clip).max() <= 1.0
    (plain,) = item.turns(16_000)
    same = clip.shape == plain.audio[0].shape and np.array_equal(clip, plain.audio[0])
    assert not (same and len(turns) == 1)


def test_variants_with_another_clip_hold_the_request_too() -> None:
    item = an_item()
    (written,) = vary([item], "in-text")
    assert written.turns(16_000)[-1].text == item.request
    assert not np.array_equal(
        written.turns(16_000)[-1].audio[0], item.turns(16_000)[-1].audio[0]
    )
    (spoken,) = vary([item], "two-speakers")
    longer = spoken.turns(16_000)[-1].audio[0]
    own = item.turns(16_000)[-1].audio[0]
    assert np.corrcoef(longer[-len(own) :], own)[0, 1] > 0.9999
    assert len(longer) > len(own) + 16_000


def test_noise_is_as_loud_as_it_should_be() -> None:
    clip = 0.3 * tiny.clip(2.0)
    noisy = add_noise(clip, decibels=10.0, seed=1)
    noise = noisy - clip
    ratio = 10 * np.log10(np.mean(clip**2) / np.mean(noise**2))
    assert ratio == pytest.approx(10, abs=0.1)


def test_speed_changes_length_and_a_telephone_its_band() -> None:
    clip = tiny.clip(1.0)
    assert len(change_speed(clip, factor=1.25)) == pytest.approx(12_800, rel=0.02)
    time = np.arange(16_000) / 16_000
    for hertz, passes in ((100, False), (1000, True), (6000, False)):
        tone = (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
        middle = limit_band(tone, 16_000)[2000:-2000]
        heard = float(np.sqrt(np.mean(middle**2)))
        assert (heard > 0.3) is passes
        assert (heard < 0.02) is not passes


def test_what_cannot_be_varied_is_refused() -> None:
    silent = Item(
        id="a", suite="safe", kind="safe", cluster="a", load=None, text="Why?"
    )
    with pytest.raises(ConfigurationError, match="has no clip"):
        vary([silent], "noise")
    with pytest.raises(ConfigurationError, match="words of a are not known"):
        vary([silent], "in-text")
    with pytest.raises(ConfigurationError, match="no variant 'odd'"):
        vary([silent], "odd")
    (turn,) = silent.turns(16_000)
    assert (turn.role, turn.text, turn.audio) == ("user", "Why?", ())
    assert set(VARIANTS) < set(ALL_VARIANTS)


def test_the_digest_tells_requests_apart() -> None:
    items = load_suites(limit=2)
    assert digest_items(items) == digest_items(load_suites(limit=2))
    assert digest_items(items) != digest_items(with_text(items, "Say why."))
    assert digest_items(items) != digest_items(items[::-1])
