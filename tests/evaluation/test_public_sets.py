"""Public sets in their layouts, with rows of our own making."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import soundfile

from sarguard.datasets import natural, speak
from sarguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    ConfigurationError,
    MissingDependencyError,
)
from sarguard.evaluation.data.public_sets import READERS, public_suite
from tests import tiny


def put_clip(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tiny.clip(0.5), tiny.RATE)


def put_json(path: Path, rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def put_figstep(root: Path) -> None:
    for folder in ("figstep_audio", "figstep_audio_safe"):
        rows = [
            {"scenario": "Gardens", "audio_file": f"g_{n}.wav", "question": f"Why {n}?"}
            for n in (1, 2)
        ]
        put_json(root / folder / "test_250.json", rows)
        for row in rows:
            put_clip(root / folder / "question" / row["audio_file"])


def put_advbench(root: Path) -> None:
    for name in ("advbench_audio", "advbench_audio_safe"):
        row = {"question_id": 1, "audio_name": "1.wav", "question": "Paint a fence"}
        put_json(root / f"{name}.json", [row])
        put_clip(root / name / "1.wav")


def put_sorry_bench(root: Path) -> None:
    rows = [
        {
            "question_id": 7,
            "category": "3",
            "turns": ["Say it."],
            "prompt_style": "base",
        },
        {"question_id": 8, "category": "3", "turns": ["Yo."], "prompt_style": "slang"},
    ]
    root.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, rows))
    (root / "base_question.jsonl").write_text(f"{lines}\n\n")
    put_clip(root / "base_question_audio" / "7.wav")


def put_air_bench(root: Path) -> None:
    row = {
        "path": "a.wav",
        "task_name": "speech_chat",
        "dataset_name": "own",
        "question": "Who speaks?",
        "answer_gt": "A man.",
        "uniq_id": 4,
        "meta_info": "",
    }
    put_json(root / "Chat_meta.json", [row])
    put_clip(root / "speech_chat_own" / "a.wav")


def test_figstep_has_matched_pairs(tmp_path: Path) -> None:
    put_figstep(tmp_path)
    items = public_suite(f"figstep={tmp_path}")
    assert [item.suite for item in items] == ["harmful"] * 2 + ["safe"] * 2
    assert items[0].cluster == items[2].cluster != items[1].cluster
    assert items[0].request == "Why 1?"
    assert items[0].turns(8_000)[0].audio[0].shape == (4_000,)
    assert len(public_suite(f"figstep={tmp_path}", limit=1)) == 2


def test_figstep_without_safe_requests_is_read_too(tmp_path: Path) -> None:
    put_figstep(tmp_path)
    (tmp_path / "figstep_audio_safe").rename(tmp_path / "elsewhere")
    assert {item.kind for item in public_suite(f"figstep={tmp_path}")} == {"harmful"}


def test_spoken_advbench_has_matched_pairs(tmp_path: Path) -> None:
    put_advbench(tmp_path)
    harmful, safe = public_suite(f"advbench={tmp_path}")
    assert (harmful.kind, safe.kind) == ("harmful", "safe")
    assert harmful.cluster == safe.cluster


def test_sorry_bench_is_read_in_its_base_style(tmp_path: Path) -> None:
    put_sorry_bench(tmp_path)
    (item,) = public_suite(f"sorry-bench={tmp_path}")
    assert (item.kind, item.request, item.topic) == ("harmful", "Say it.", "3")


def test_air_bench_is_harmless_and_asks_in_writing(tmp_path: Path) -> None:
    put_air_bench(tmp_path)
    (item,) = public_suite(f"air-bench={tmp_path}")
    assert (item.suite, item.kind, item.text) == ("ordinary", "safe", "Who speaks?")
    assert len(item.turns(16_000)[0].audio) == 1


def test_ajailbench_is_a_folder_of_clips(tmp_path: Path) -> None:
    put_clip(tmp_path / "a" / "one.wav")
    put_clip(tmp_path / "two.wav")
    items = public_suite(f"ajailbench={tmp_path}")
    assert [item.id for item in items] == ["ajailbench/a/one.wav", "ajailbench/two.wav"]
    assert {(item.kind, item.request) for item in items} == {("harmful", "")}


def test_voicebench_holds_its_clips(tmp_path: Path) -> None:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    encoded = io.BytesIO()
    soundfile.write(encoded, tiny.clip(0.5), tiny.RATE, format="WAV")
    audio = {"bytes": encoded.getvalue(), "path": "a.wav"}
    table = pyarrow.Table.from_pylist([{"prompt": "Say  it.", "audio": audio}])
    parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    (item,) = public_suite(f"voicebench={tmp_path}")
    assert (item.kind, item.request) == ("harmful", "Say it.")
    assert item.turns(16_000)[0].audio[0].shape == (8_000,)
    other = pyarrow.Table.from_pylist([{"prompt": "Say it."}])
    parquet.write_table(other, tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(ArtifactFormatError, match="lacks audio"):
        public_suite(f"voicebench={tmp_path}")


class TestText:
    @pytest.fixture(autouse=True)
    def _synthesiser(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def synthesise(clip: speak.Clip) -> object:
            assert clip.voice_group == "unseen"
            return tiny.clip(0.1 * len(clip.text.split()))

        monkeypatch.setattr(speak, "synthesise", synthesise)
        monkeypatch.setattr(natural, "check_natural_voices", lambda: None)

    def test_xstest_is_borderline_and_spoken(self, tmp_path: Path) -> None:
        file = tmp_path / "xstest_prompts.csv"
        file.write_text(
            "id,prompt,type,label,focus,note\n"
            '1,"How do I kill time, quietly?",homonyms,safe,kill,\n'
            "2,Say it anyway.,contrast_homonyms,unsafe,kill,\n"
        )
        unsafe, safe = public_suite(f"xstest={file}")
        assert (unsafe.suite, safe.suite) == ("harmful", "borderline")
        assert safe.request == "How do I kill time, quietly?"
        assert safe.topic == "homonyms"
        assert len(safe.turns(16_000)[0].audio[0]) == 9_600

    def test_advbench_is_spoken_from_its_goals(self, tmp_path: Path) -> None:
        file = tmp_path / "harmful_behaviors.csv"
        file.write_text("goal,target\nPaint a fence,Sure\n")
        (item,) = public_suite(f"advbench={file}")
        assert (item.kind, item.request) == ("harmful", "Paint a fence")

    def test_an_unknown_label_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "x.csv"
        file.write_text("id,prompt,type,label,focus,note\n5,Hi,a,maybe,,\n")
        with pytest.raises(ArtifactFormatError, match="id 5: label 'maybe'"):
            public_suite(f"xstest={file}")


def test_text_without_a_synthesiser_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "x.csv"
    file.write_text("goal,target\nPaint a fence,Sure\n")
    with pytest.raises(MissingDependencyError, match="espeak-ng"):
        public_suite(f"advbench={file}")


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_set_that_is_not_there_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="there is no"):
        public_suite(f"{name}={tmp_path / 'nowhere'}")


def test_a_clip_that_is_missing_is_named(tmp_path: Path) -> None:
    put_figstep(tmp_path)
    (tmp_path / "figstep_audio" / "question" / "g_2.wav").unlink()
    with pytest.raises(ArtifactNotFoundError, match=r"g_2\.wav"):
        public_suite(f"figstep={tmp_path}")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("xstest", "prompt,label\n", "lacks id, type"),
        ("advbench", "goal,target\n", "holds no row"),
        ("advbench", "goal,target\n ,x\n", "row 1: found ' '"),
        ("sorry-bench", "{", "line 1: not valid JSON"),
        ("sorry-bench", "[1]", "line 1: found a JSON list"),
        ("sorry-bench", '{"question_id": 1, "category": 2}', "missing turns"),
        (
            "sorry-bench",
            '{"question_id": 1, "category": "2", "turns": ["a", "b"]}',
            "expected one text",
        ),
        ("voicebench", "no parquet", "not a Parquet file"),
    ],
)
def test_another_layout_is_named(
    name: str, content: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows"
    file.write_text(content)
    with pytest.raises(ArtifactFormatError, match=says):
        public_suite(f"{name}={file}")


@pytest.mark.parametrize("given", ["figstep", "odd=/tmp", "=x", "figstep="])
def test_a_set_has_a_name_and_a_place(given: str) -> None:
    with pytest.raises(ConfigurationError, match="SET=PATH"):
        public_suite(given)
