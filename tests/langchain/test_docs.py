"""The page on LangChain: each of its blocks runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from langchain_sarguard import ChatSafeAudio, SafeAudioRunnable, VoicePipelineStage
from langchain_sarguard.benchmark import main

from sarguard import SafeAudioLLM
from tests.langchain.fakes import FakeClient, wav

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "langchain.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def run_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the blocks of Python in order, beside the clip that they name."""
    pytest.importorskip("langgraph")
    monkeypatch.chdir(folder)
    (folder / "question.wav").write_bytes(wav(1.0))
    names: dict[str, Any] = {"__name__": "page"}
    for text in blocks("python"):
        exec(compile(text, "docs/langchain.md", "exec"), names)
    return names


def test_the_way_to_a_voice_agent_is_short() -> None:
    install, agent = BLOCKS[0][1], BLOCKS[1][1]
    assert len((install + agent).splitlines()) < 30


def test_the_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient()
    monkeypatch.setattr(SafeAudioLLM, "from_pretrained", lambda *_, **__: client)
    names = run_page(tmp_path, monkeypatch)
    assert capsys.readouterr().out == "Paris.\n"
    assert isinstance(names["chat"], ChatSafeAudio)
    assert isinstance(names["runnable"], SafeAudioRunnable)
    assert isinstance(names["stage"], VoicePipelineStage)
    client.reply = FakeClient('{"seat": true}').reply
    assert names["books"].invoke("Book it.").seat is True


@pytest.mark.reference
def test_the_blocks_run_on_the_reference_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llguidance")
    names = run_page(tmp_path, monkeypatch)
    chat = names["chat"]
    try:
        assert capsys.readouterr().out.strip()
        found = chat.with_structured_output(names["Booking"], include_raw=True).invoke(
            "Is a seat wanted? The caller said: a seat, please."
        )
        outcome = found["raw"].response_metadata["outcome"]
        assert isinstance(found["parsed"], names["Booking"]) or outcome == "refused"
    finally:
        chat.client.close()


def test_the_commands_are_real(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install, benchmark = blocks("sh")
    pinned = (ROOT / "constraints.txt").read_text("utf-8")
    for command in install.strip().split(" && "):
        words = shlex.split(command)
        assert words[:4] == ["pip", "install", "-c", "constraints.txt"]
        assert words[-1] == ".[langchain]" or f"\n{words[-1]}==" in pinned
    assert benchmark.split() == ["python", "-m", main.__module__]
    monkeypatch.setattr("sys.argv", ["benchmark", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "--pairs" in capsys.readouterr().out


def test_linked_files_exist() -> None:
    for path in re.findall(r"\]\(\.\./([^)]+)\)", PAGE):
        assert (ROOT / path).is_file()
