"""The calibration set: its sentences, its clips, and a caller's own manifest."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from sarguard.datasets import (
    clips,
    data_digest,
    load_clips,
    load_instructions,
    load_manifest,
    load_pairs,
    load_sentences,
    load_texts,
    load_user_pairs,
    read_user_manifest,
    speak,
    user_data_digest,
)
from sarguard.datasets.clips import DATA_ROOT, digest_clips
from sarguard.datasets.natural import KOKORO_VOICES
from sarguard.datasets.ogg import renumber
from sarguard.datasets.pairs import match_clips
from sarguard.datasets.synthesis import mixture
from sarguard.datasets.texts import SPLITS, Kind, RequestText, Split
from sarguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    AudioDecodeError,
    AudioError,
    AudioNotFoundError,
    AudioSilentError,
    ConfigurationError,
    InsufficientDataError,
    MissingDependencyError,
)

SIZE_BUDGET = 25_000_000
PAIRED: tuple[Split, ...] = ("calibration", "validation", "test", "demo")
HELD_OUT: tuple[Split, ...] = ("test", "ordinary", "borderline")
STOP_WORDS = frozenset(
    re.findall(
        r"[a-z]+",
        """
        a an the to of in on at for from with and by as into my me i is are do can how
        what where why best way give tell show teach explain describe help write create
        find it that who some
        """,
    )
)


def paired(split: Split) -> dict[str, dict[Kind, RequestText]]:
    by_pair: defaultdict[str, dict[Kind, RequestText]] = defaultdict(dict)
    for request in load_texts():
        if request.split == split and request.pair is not None:
            by_pair[request.pair][request.kind] = request
    return dict(by_pair)


def content_words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z']+", text.lower())) - STOP_WORDS


def similarity(one: str, other: str) -> float:
    ours, theirs = content_words(one), content_words(other)
    return len(ours & theirs) / len(ours | theirs)


class TestTexts:
    @pytest.mark.parametrize(
        ("split", "at_least"),
        [("calibration", 350), ("validation", 115), ("test", 150), ("demo", 6)],
    )
    def test_every_pair_has_both_kinds(self, split: Split, at_least: int) -> None:
        pairs = paired(split)
        assert len(pairs) >= at_least
        assert all(pair.keys() == {"harmful", "safe"} for pair in pairs.values())

    @pytest.mark.parametrize(
        ("split", "at_least"),
        [
            ("ordinary", 150),
            ("ordinary_calibration", 100),
            ("ordinary_validation", 75),
        ],
    )
    def test_ordinary_requests_are_safe_and_are_unpaired(
        self, split: Split, at_least: int
    ) -> None:
        ordinary = [r for r in load_texts() if r.split == split]
        assert len(ordinary) >= at_least
        assert {(r.kind, r.pair) for r in ordinary} == {("safe", None)}

    @pytest.mark.parametrize(
        ("split", "at_least"),
        [
            ("borderline", 150),
            ("borderline_calibration", 200),
            ("borderline_validation", 80),
        ],
    )
    def test_borderline_requests_are_safe_and_of_both_topics(
        self, split: Split, at_least: int
    ) -> None:
        borderline = [r for r in load_texts() if r.split == split]
        assert len(borderline) >= at_least
        assert {(r.kind, r.pair) for r in borderline} == {("safe", None)}
        traps = Counter(r.topic for r in borderline)
        assert set(traps) == {"words", "topic"}
        assert min(traps.values()) >= 0.9 * max(traps.values())

    def test_no_sentence_repeats(self) -> None:
        spoken = Counter(
            " ".join(re.findall(r"[a-z']+", request.text.lower()))
            for request in load_texts()
        )
        assert [text for text, count in spoken.items() if count > 1] == []

    def test_no_sentence_is_close_to_one_of_another_split(self) -> None:
        close = [
            (one.text, other.text)
            for one, other in combinations(load_texts(), 2)
            if one.split != other.split and similarity(one.text, other.text) >= 0.5
        ]
        assert close == []

    def test_pairs_share_their_opening_and_their_length(self) -> None:
        apart = []
        for split in PAIRED:
            for pair in paired(split).values():
                harmful, safe = pair["harmful"].text, pair["safe"].text
                if harmful.split()[0] != safe.split()[0]:
                    apart.append((harmful, safe))
                assert 0.6 <= len(harmful) / len(safe) <= 1.6
                assert 0.6 <= len(harmful.split()) / len(safe.split()) <= 1.6
        # "Fabricate a quote", "Paraphrase a quote": the test is left as it was written.
        assert len(apart) <= 1

    def test_harmful_requests_are_no_longer_than_safe_ones_on_average(self) -> None:
        for split in PAIRED:
            lengths: defaultdict[Kind, list[int]] = defaultdict(list)
            for pair in paired(split).values():
                for kind, request in pair.items():
                    lengths[kind].append(len(request.text))
            ratio = np.mean(lengths["harmful"]) / np.mean(lengths["safe"])
            assert ratio == pytest.approx(1, abs=0.03)

    def test_sentences_are_short_and_plain(self) -> None:
        for request in load_texts():
            assert 4 <= len(request.text.split()) <= 16, request.text
            assert re.fullmatch(r"[A-Z][A-Za-z',;: -]+[.?]", request.text), request.text

    @pytest.mark.parametrize("split", ["calibration", "validation", "test"])
    def test_any_prefix_spreads_over_the_topics(self, split: Split) -> None:
        topics = [pair["harmful"].topic for pair in paired(split).values()]
        assert len(set(topics)) >= 10
        # From where the smallest topic ends, the others go on.
        for end in range(
            len(set(topics)), min(Counter(topics).values()) * len(set(topics))
        ):
            counts = Counter(topics[:end]).values()
            assert max(counts) - min(counts) <= 1

    def test_requests_open_in_many_ways(self) -> None:
        openings = {
            split: {p["harmful"].text.split()[0] for p in paired(split).values()}
            for split in PAIRED
        }
        assert openings["demo"] <= openings["calibration"]
        assert len(openings["calibration"]) >= 50
        # Written by somebody who saw no other split.
        assert len(openings["test"] - openings["calibration"]) >= 10

    def test_load_sentences_holds_every_text(self) -> None:
        assert load_sentences() == {request.text for request in load_texts()}


class TestManifest:
    def test_ships_what_the_plan_says(self) -> None:
        assert load_manifest() == speak.plan_clips()

    def test_clips_on_disk_are_those_of_the_manifest(self) -> None:
        on_disk = {
            path.relative_to(DATA_ROOT).as_posix()
            for path in (DATA_ROOT / "clips").rglob("*")
            if path.is_file()
        }
        files = [clip.file for clip in load_manifest()]
        assert len(set(files)) == len(files)
        assert set(files) == on_disk

    def test_fits_the_size_budget(self) -> None:
        size = sum(f.stat().st_size for f in DATA_ROOT.rglob("*") if f.is_file())
        assert size <= SIZE_BUDGET

    def test_every_clip_decodes_and_has_a_plausible_length(self) -> None:
        for clip in load_manifest():
            samples, rate = soundfile.read(DATA_ROOT / clip.file, always_2d=True)
            assert (rate, samples.shape[1]) == (16_000, 1), clip.id
            assert 0.5 <= len(samples) / rate <= 9, clip.id
            assert np.isfinite(samples).all(), clip.id
            assert 0.5 <= np.abs(samples).max() <= 1.0, clip.id

    def test_both_of_a_pair_are_spoken_alike(self) -> None:
        matched = match_clips(load_manifest())
        assert len(matched) == sum(c.kind == "harmful" for c in load_manifest())
        for harmful, safe in matched:
            for name in ("engine", "voice", "speed", "pitch", "split", "topic"):
                assert getattr(harmful, name) == getattr(safe, name), harmful.id

    def test_unseen_voices_are_never_among_the_seen(self) -> None:
        groups: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        for clip in load_manifest():
            groups[clip.voice_group].add((clip.engine, clip.voice.split("+")[0]))
        assert groups["unseen"] == {
            ("kokoro", "jf_nezumi*1.0"),
            ("piper", "en_US-joe-medium"),
        }
        mixed = {
            style
            for clip in load_manifest()
            if (clip.engine, clip.voice_group) == ("kokoro", "seen")
            for style in mixture(clip.voice)
        }
        assert mixed == set(KOKORO_VOICES)
        assert not groups["seen"] & groups["unseen"]

    def test_held_out_sentences_are_spoken_by_both_groups(self) -> None:
        for split in HELD_OUT:
            heard: defaultdict[str, set[str]] = defaultdict(set)
            for clip in load_clips(split):
                heard[clip.text].add(clip.voice_group)
            assert set(map(frozenset, heard.values())) == {
                frozenset({"seen", "unseen"})
            }
        for split in set(SPLITS) - {*HELD_OUT}:
            assert not load_clips(split, voice="unseen")

    def test_calibration_uses_several_voices_evenly(self) -> None:
        voices = Counter(clip.engine for clip in load_clips("calibration"))
        assert set(voices) == {"espeak-ng", "flite", "hibari", "kokoro"}
        assert min(voices.values()) / max(voices.values()) >= 0.4
        assert len({clip.voice for clip in load_clips("calibration")}) >= 10


class TestLoadClips:
    def test_filters_by_kind_and_voice(self) -> None:
        demo = load_clips("demo", "harmful")
        assert len(demo) == 6
        assert {clip.kind for clip in demo} == {"harmful"}
        unseen = load_clips("test", "safe", "unseen")
        assert len(unseen) * 4 == len(load_clips("test"))
        assert {c.voice for c in load_clips("test", voice="slt")} == {"slt"}

    def test_unknown_split_is_refused(self) -> None:
        with pytest.raises(
            ConfigurationError, match=r"'train'.*calibration, validation, test"
        ):
            load_clips("train")  # type: ignore[arg-type]

    def test_clip_loads_as_mono_float_at_the_wanted_rate(self) -> None:
        clip = load_clips("demo")[0]
        at_16, at_8 = clip.load(), clip.load(sample_rate=8_000)
        assert at_16.dtype == np.float32
        assert at_16.ndim == 1
        assert len(at_8) == pytest.approx(len(at_16) / 2, abs=2)

    def test_missing_clip_says_what_to_do(self) -> None:
        clip = dataclasses.replace(load_clips("demo")[0], file="clips/gone.ogg")
        with pytest.raises(ArtifactNotFoundError, match="Reinstall"):
            clip.read_bytes()

    def test_missing_manifest_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clips, "DATA_ROOT", tmp_path)
        with pytest.raises(ArtifactNotFoundError, match="Reinstall"):
            load_manifest.__wrapped__()


class TestLoadPairs:
    def test_pairs_follow_the_manifest_and_its_audio(self) -> None:
        pairs = load_pairs("demo", sample_rate=16_000)
        assert [p.id for p in pairs] == [f"demo-{n}/seen" for n in range(1, 7)]
        first = next(c for c in load_manifest() if c.id == "demo-1-harmful-seen")
        np.testing.assert_array_equal(pairs[0].harmful, first.load())
        assert not np.array_equal(pairs[0].harmful, pairs[0].safe)

    def test_limit_keeps_a_prefix(self) -> None:
        pairs = load_pairs("calibration", sample_rate=16_000, limit=3)
        expected = [f"{pair}/seen" for pair in list(paired("calibration"))[:3]]
        assert [pair.id for pair in pairs] == expected

    def test_held_out_pairs_come_in_both_groups_or_in_one(self) -> None:
        both = load_pairs("test", sample_rate=16_000, limit=2)
        assert {pair.id.split("/")[1] for pair in both} == {"seen", "unseen"}
        unseen = load_pairs("test", sample_rate=16_000, limit=2, voice="unseen")
        assert {pair.id.split("/")[1] for pair in unseen} == {"unseen"}

    @pytest.mark.parametrize("limit", [0, -1])
    def test_limit_below_one_is_refused(self, limit: int) -> None:
        with pytest.raises(ConfigurationError, match=f"{limit} pairs keeps none"):
            load_pairs("calibration", sample_rate=16_000, limit=limit)

    def test_a_split_without_pairs_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="holds no pairs"):
            load_pairs("ordinary", sample_rate=16_000)


class TestDigest:
    def test_is_stable_and_differs_by_split(self) -> None:
        assert data_digest("demo") == data_digest("demo")
        assert re.fullmatch(r"[0-9a-f]{64}", data_digest("demo"))
        assert data_digest("demo") != data_digest("ordinary")

    def test_changes_when_a_byte_of_audio_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        demo = load_clips("demo")
        before = data_digest("demo")
        for clip in demo:
            copy = tmp_path / clip.file
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(clip.read_bytes())
        monkeypatch.setattr(clips, "DATA_ROOT", tmp_path)
        assert digest_clips(demo) == before
        content = bytearray((tmp_path / demo[3].file).read_bytes())
        content[-1] ^= 1
        (tmp_path / demo[3].file).write_bytes(content)
        assert digest_clips(demo) != before

    def test_changes_with_a_row_and_with_the_order(self) -> None:
        demo = load_clips("demo")
        changed = (dataclasses.replace(demo[0], topic="other"), *demo[1:])
        assert digest_clips(changed) != digest_clips(demo)
        assert digest_clips(demo[::-1]) != digest_clips(demo)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two clips that can be decoded."""
    for name, hertz in (("a.wav", 220), ("b.wav", 330)):
        tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000)
        soundfile.write(tmp_path / name, tone.astype(np.float32), 16_000)
    return tmp_path


def write_manifest(folder: Path, *lines: object) -> Path:
    path = folder / "pairs.jsonl"
    rows = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


GOOD = {"harmful": "a.wav", "safe": "b.wav"}


class TestUserManifest:
    def test_pairs_are_read_relative_to_the_manifest(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir("/")
        path = write_manifest(folder, GOOD, "", GOOD, "")
        pairs = read_user_manifest(path)
        assert [pair.line for pair in pairs] == [1, 3]
        assert pairs[0].harmful == folder / "a.wav"
        assert pairs[0].safe == folder / "b.wav"

    def test_pairs_are_decoded(self, folder: Path) -> None:
        path = write_manifest(folder, GOOD, GOOD)
        pairs = load_user_pairs(path, sample_rate=8_000)
        assert [pair.id for pair in pairs] == ["line-1", "line-2"]
        assert pairs[0].harmful.shape == (8_000,)
        assert pairs[0].harmful.dtype == np.float32
        assert not np.array_equal(pairs[0].harmful, pairs[0].safe)
        assert len(load_user_pairs(path, sample_rate=8_000, limit=1)) == 1

    def test_a_byte_order_mark_and_windows_line_ends_are_accepted(
        self, folder: Path
    ) -> None:
        path = folder / "pairs.jsonl"
        row = json.dumps(GOOD).encode()
        path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n" + row + b"\r\n")
        assert len(read_user_manifest(path)) == 2

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ('{"harmful": "a.wav", ', "not valid JSON"),
            ("a.wav,b.wav", "not valid JSON"),
            ('["a.wav", "b.wav"]', "JSON list where an object"),
            ("null", "JSON NoneType where an object"),
            ({"harmful": "a.wav"}, "missing key 'safe'"),
            ({}, "missing key 'harmful', 'safe'"),
            (GOOD | {"label": 1, "id": 2}, "unknown key 'id', 'label'"),
            (GOOD | {"safe": 3}, "'safe' must be the path.*found 3"),
            (GOOD | {"harmful": " "}, "'harmful' must be the path"),
            (GOOD | {"harmful": "a\0.wav"}, "'harmful' must be the path"),
        ],
    )
    def test_a_malformed_line_is_named(
        self, folder: Path, line: object, says: str
    ) -> None:
        path = write_manifest(folder, GOOD, line)
        with pytest.raises(
            ArtifactFormatError, match=rf"pairs\.jsonl, line 2: .*{says}"
        ):
            read_user_manifest(path)

    @pytest.mark.parametrize("name", ["gone.wav", "."])
    def test_a_missing_clip_is_named(self, folder: Path, name: str) -> None:
        path = write_manifest(folder, GOOD, GOOD | {"safe": name})
        with pytest.raises(AudioNotFoundError, match="line 2: there is no safe audio"):
            read_user_manifest(path)

    def test_a_missing_manifest_is_named(self, folder: Path) -> None:
        with pytest.raises(ArtifactNotFoundError, match=r"no\.jsonl"):
            read_user_manifest(folder / "no.jsonl")
        with pytest.raises(ArtifactNotFoundError):
            read_user_manifest(folder)

    @pytest.mark.parametrize("content", ["", "\n \n"])
    def test_an_empty_manifest_is_refused(self, folder: Path, content: str) -> None:
        with pytest.raises(InsufficientDataError, match="names no pairs"):
            read_user_manifest(write_manifest(folder, content))

    def test_a_manifest_that_is_audio_is_refused(self, folder: Path) -> None:
        with pytest.raises(ArtifactFormatError):
            read_user_manifest(folder / "a.wav")

    def test_an_unusable_clip_is_named_with_its_line(self, folder: Path) -> None:
        (folder / "text.wav").write_text("no audio here")
        path = write_manifest(folder, GOOD, GOOD | {"harmful": "text.wav"})
        with pytest.raises(AudioDecodeError, match=r"line 2: .*text\.wav"):
            load_user_pairs(path, sample_rate=16_000)
        soundfile.write(folder / "quiet.wav", np.zeros(16_000), 16_000)
        path = write_manifest(folder, GOOD | {"safe": "quiet.wav"})
        with pytest.raises(AudioSilentError, match=r"line 1: .*quiet\.wav"):
            load_user_pairs(path, sample_rate=16_000)

    def test_digest_follows_content_and_not_names(self, folder: Path) -> None:
        before = user_data_digest(write_manifest(folder, GOOD))
        (folder / "a.wav").rename(folder / "c.wav")
        renamed = write_manifest(folder, {"harmful": "c.wav", "safe": "b.wav"})
        assert user_data_digest(renamed) == before
        swapped = write_manifest(folder, {"harmful": "b.wav", "safe": "c.wav"})
        assert user_data_digest(swapped) != before
        assert user_data_digest(swapped, limit=1) == user_data_digest(swapped)

    @given(content=st.binary(max_size=200))
    def test_any_bytes_give_a_typed_error(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes
    ) -> None:
        path = tmp_path_factory.mktemp("manifest") / "pairs.jsonl"
        path.write_bytes(content)
        with pytest.raises((ArtifactFormatError, InsufficientDataError, AudioError)):
            read_user_manifest(path)


class TestSpeak:
    def test_plan_is_deterministic_across_processes(self) -> None:
        code = (
            "import hashlib; from sarguard.datasets.speak import plan_clips;"
            "print(hashlib.sha256(repr(plan_clips()).encode()).hexdigest())"
        )
        digests = {
            subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                capture_output=True,
                env={"PYTHONHASHSEED": seed},
            ).stdout
            for seed in ("1", "2")
        }
        assert len(digests) == 1

    @pytest.mark.parametrize("missing", [["flite"], ["espeak-ng", "flite"]])
    def test_missing_engine_is_named_before_anything_is_written(
        self,
        missing: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(
            "shutil.which", lambda name: None if name in missing else name
        )
        with pytest.raises(
            MissingDependencyError, match=f"apt-get install {' '.join(missing)}"
        ):
            speak.check_engines()
        assert speak.main(["--out", str(tmp_path / "out")]) == 1
        assert f"found no {' and no '.join(missing)}" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_rendering_repeats_byte_for_byte(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tone = 0.2 * np.sin(np.arange(16_000) / 20).astype(np.float32)
        monkeypatch.setattr(speak, "synthesise", lambda clip: tone)
        one, other = load_clips("demo")[:2]
        assert speak.render(one) == speak.render(one)
        assert speak.render(one) != speak.render(other)

    def test_a_silent_synthesiser_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for silence in (np.zeros(16_000, np.float32), np.zeros(0, np.float32)):
            monkeypatch.setattr(speak, "synthesise", lambda clip, s=silence: s)
            with pytest.raises(AudioSilentError, match="said nothing"):
                speak.render(load_clips("demo")[0])

    def test_renumbered_ogg_still_decodes(self, tmp_path: Path) -> None:
        content = load_clips("demo")[0].read_bytes()
        changed = renumber(content, 0x01020304)
        assert changed != content
        assert changed[14:18] == b"\x04\x03\x02\x01"
        (tmp_path / "a.ogg").write_bytes(content)
        (tmp_path / "b.ogg").write_bytes(changed)
        before, _ = soundfile.read(tmp_path / "a.ogg")
        after, _ = soundfile.read(tmp_path / "b.ogg")
        np.testing.assert_array_equal(before, after)

    def test_bytes_that_are_not_ogg_are_refused(self) -> None:
        content = load_clips("demo")[0].read_bytes()
        with pytest.raises(AudioDecodeError, match="no Ogg page at byte 0"):
            renumber(b"RIFF" + content, 1)
        with pytest.raises(AudioDecodeError, match="cut off"):
            renumber(content[:-1], 1)


class TestInstructions:
    def test_each_is_there_once_and_holds_words(self) -> None:
        instructions = load_instructions()
        assert len(instructions) >= 150
        assert len(set(instructions)) == len(instructions)
        assert all(text == text.strip() != "" for text in instructions)

    def test_none_is_what_gates_are_measured_with(self) -> None:
        from sarguard.calibration.contexts import SPOKEN, WRITTEN
        from sarguard.evaluation.data import contexts

        clip = np.zeros(16, dtype=np.float32)
        asked = [made(clip, clip, clip) for made in SPOKEN.values()]
        asked += [made("", clip) for made in WRITTEN.values()]
        known = {turn.text for turns in asked for turn in turns}
        known |= {contexts.QUESTION, contexts.POLITE, contexts.ACKNOWLEDGED}
        known |= {contexts.SCHEMA_TEXT, "Answer the caller."}
        assert not known & set(load_instructions())
