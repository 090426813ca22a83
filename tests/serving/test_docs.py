"""Run every block of the page on asking, and check its tables against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import soundfile

from sarguard import SafeAudioLLM, errors
from sarguard.client_options import ClientOptions
from sarguard.serving.request import GenerationOptions
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome
from tests import tiny

PATH = Path(__file__).resolve().parents[2] / "docs" / "asking.md"
PAGE = PATH.read_text("utf-8")


def first_column(section: str) -> list[str]:
    """Return the names in the first column of a section's first table."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(cells))


def test_the_blocks_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: SteeringBundle,
) -> None:
    loaded = tiny.build()

    def from_pretrained(name: str, **options: Any) -> SafeAudioLLM:  # noqa: ANN401
        assert name == "reference"
        return SafeAudioLLM.from_loaded(loaded, tiny_bundle, alpha=0.1, **options)

    monkeypatch.setattr(SafeAudioLLM, "from_pretrained", from_pretrained)
    monkeypatch.chdir(tmp_path)
    soundfile.write("question.wav", tiny.clip(1.0), tiny.RATE)
    names: dict[str, Any] = {"__name__": "page"}
    try:
        for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(text, "docs/asking.md", "exec"), names)
    finally:
        names["llm"].close()
    out = capsys.readouterr().out
    assert re.search(r"# (there is no option .*)", PAGE)[1] in out  # type: ignore[index]
    # The worker may still be clearing up after the last reply.
    assert re.search(r"^ready\n0 of 64 wait; [01] run\nnone$", out, re.MULTILINE)
    assert names["shorter"].usage.prompt_tokens > names["reply"].usage.prompt_tokens
    assert sum(names["metrics"].outcomes.values()) == 2
    assert len(names["metrics"].first_token_s) == 2


def test_every_option_is_listed() -> None:
    request = first_column("Options of a request")
    assert sorted(request) == sorted(GenerationOptions.__annotations__)
    client = first_column("Options of a client")
    assert sorted(client) == sorted(ClientOptions.__annotations__)


def test_every_outcome_is_listed_and_every_error_exists() -> None:
    names = first_column("How a request ends")
    outcomes, raised = names[: len(Outcome)], names[len(Outcome) :]
    assert sorted(outcomes) == sorted(outcome.value for outcome in Outcome)
    assert len(raised) == 5
    assert all(issubclass(getattr(errors, e), errors.SarguardError) for e in raised)


def test_linked_pages_exist() -> None:
    for name in re.findall(r"\]\(([a-z-]+\.md)\)", PAGE):
        assert (PATH.parent / name).is_file()
