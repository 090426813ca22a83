from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sarguard.reference.training import clips
from sarguard.reference.training.clips import MAX_SECONDS, Voices, load, render

MISSING = [name for name in ("espeak-ng", "flite") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not on PATH: no voices"),
    # Python 3.12 and later warn of a fork beside torch's threads.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

SENTENCES = ("Bake bread.", "Open a door.", "Feed the cat.", "Sing.", "Plant a tree.")
TOO_LONG = "And then we walked on, and on, and on, past house after house. " * 3


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "SHARD_SIZE", 2)


def speak(out: Path, *, voices: Voices = "synthetic", seed: int = 0) -> list[int]:
    return list(render(SENTENCES, out, voices=voices, seed=seed, workers=1))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Return a directory with every sentence spoken."""
    out = tmp_path / "spoken"
    assert speak(out) == [2, 4, 5]
    return out


def test_every_sentence_is_spoken_in_order(spoken: Path) -> None:
    found = load(spoken)
    assert [clip.text for clip in found] == list(SENTENCES)
    assert sorted(contents(spoken)) == [
        f"0000{shard}.{ending}" for shard in range(3) for ending in ("json", "npy")
    ]
    for clip in found:
        assert clip.samples.dtype == np.int16
        assert 0.2 < clip.seconds < MAX_SECONDS
        assert np.abs(clip.samples).max() == pytest.approx(0.7 * 32767, abs=1)


def test_the_same_seed_gives_the_same_bytes(spoken: Path, tmp_path: Path) -> None:
    speak(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(spoken)
    speak(tmp_path / "other", seed=1)
    assert contents(tmp_path / "other") != contents(spoken)


def test_only_a_missing_shard_is_made_again(spoken: Path) -> None:
    before, made = contents(spoken), times(spoken)
    (spoken / "00001.json").unlink()
    (spoken / "00001.npy").unlink()
    assert speak(spoken) == [2, 4, 5]
    assert contents(spoken) == before
    for name, time in times(spoken).items():
        assert (time == made[name]) == (not name.startswith("00001")), name


def test_a_shard_cut_off_before_its_index_is_made_again(spoken: Path) -> None:
    before = contents(spoken)
    (spoken / "00002.json").unlink()
    (spoken / "00002.npy").write_bytes(b"cut off")
    (spoken / "00002.partial").write_text("[{", "utf-8")
    speak(spoken)
    assert contents(spoken) == before


def test_a_clip_that_is_too_long_is_left_out(tmp_path: Path) -> None:
    said = [SENTENCES[0], TOO_LONG]
    assert list(render(said, tmp_path, voices="synthetic", seed=0, workers=1)) == [2]
    (row,) = json.loads((tmp_path / "00000.json").read_text("utf-8"))
    assert row["text"] == SENTENCES[0]
    assert [clip.text for clip in load(tmp_path)] == [SENTENCES[0]]
