from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sarguard import client
from sarguard.audit import AuditLog, Query, verify
from sarguard.cli import ask, load
from sarguard.client import FALLBACK
from sarguard.datasets import load_clips
from sarguard.errors import SteeringNotAppliedError
from sarguard.evaluation.judges.rules import find_collapse
from sarguard.serving import batch_engine
from sarguard.types import Event
from tests import tiny
from tests.cli.conftest import Run


@pytest.fixture
def options(checkpoint: str, bundle: str) -> list[str]:
    # A tiny model's states say nothing of harm: a constant dose.
    model = ["--model", checkpoint, "--bundle", bundle]
    return [*model, "--alpha", "0.1", "--max-new-tokens", "5"]


def test_the_answer_goes_to_stdout_and_the_rest_to_stderr(
    run: Run, options: list[str], clip: str
) -> None:
    status, out, err = run("ask", clip, *options)
    assert status == 0
    assert out.count("\n") >= 1
    assert "5 positions steered on each of 3 layers" in " ".join(err.split())


def test_json_is_the_reply(
    run: Run, options: list[str], clip: str, tiny_bundle: client.SteeringBundle
) -> None:
    status, out, _ = run("ask", clip, *options, "--alpha", "0.2", "--json")
    reply = json.loads(out)
    assert status == 0
    assert reply["outcome"] in {"answered", "refused"}
    assert reply["guard"]["alpha"] == 0.2
    assert reply["guard"]["bundle_digest"] == tiny_bundle.digest
    assert reply["guard"]["steered_positions"] == 5


def test_text_and_system_prompt_reach_the_model(
    run: Run, options: list[str], clip: str
) -> None:
    def prompt(*more: str) -> int:
        out = run("ask", clip, *options, "--json", *more)[1]
        return int(json.loads(out)["usage"]["prompt_tokens"])

    assert prompt() < prompt("--text", "Why?") < prompt("--text", "Why is it so?")
    assert prompt("--system", "Be very brief, and kind to everybody.") > prompt()


def test_a_clip_can_come_through_stdin(
    run: Run, options: list[str], clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.TextIOWrapper(io.BytesIO(Path(clip).read_bytes()))
    monkeypatch.setattr(sys, "stdin", content)
    piped = json.loads(run("ask", "-", *options, "--json")[1])
    read = json.loads(run("ask", clip, *options, "--json")[1])
    assert piped["text"] == read["text"]


def test_an_answer_that_is_not_proven_is_withheld(
    run: Run, options: list[str], clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SteeringNotAppliedError("a layer was not steered")

    monkeypatch.setattr(batch_engine, "decode_rows", fail)
    status, out, err = run("ask", clip, *options)
    assert (status, out) == (1, f"{FALLBACK}\n")
    assert "withheld: SteeringNotAppliedError: a layer was not steered" in err
    status, out, err = run("ask", clip, *options, "--json")
    assert status == 1
    assert json.loads(out)["outcome"] == "error_closed"


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make stdout a terminal; return what is written to it, piece by piece."""
    pieces: list[str] = []
    write = sys.stdout.write

    def note(text: str) -> int:
        pieces.append(text)
        return write(text)

    # While a test is set up, pytest's stdout is another one.
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "write", note)
    return pieces


class TestOnATerminal:
    def test_the_answer_comes_in_pieces(
        self,
        run: Run,
        options: list[str],
        clip: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        long = ("--max-new-tokens", "12")
        whole = json.loads(run("ask", clip, *options, *long, "--json")[1])["text"]
        written = on_a_terminal(monkeypatch)
        assert run("ask", clip, *options, *long)[0] == 0
        assert "".join(written) == f"{whole}\n"
        assert len(written) > 3

    def test_what_takes_its_place_begins_a_line(
        self,
        run: Run,
        options: list[str],
        clip: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        on_a_terminal(monkeypatch)
        decode = batch_engine.decode_rows

        def fail_later(
            *given: object, after_step: Callable[[], None], **options: object
        ) -> None:
            steps = iter(range(100))

            def step() -> None:
                after_step()
                if next(steps) == 3:
                    raise SteeringNotAppliedError("a layer was not steered")

            decode(*given, after_step=step, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(batch_engine, "decode_rows", fail_later)
        status, out, err = run("ask", clip, *options)
        assert status == 1
        assert out.splitlines()[-1] == FALLBACK
        assert len(out.splitlines()) > 1
        assert "withheld" in err


def write(path: Path, samples: np.ndarray, rate: int = tiny.RATE) -> str:
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return str(path)


def bad_clip(name: str, folder: Path) -> str:
    second = tiny.clip(1.0)
    path = folder / "clip.wav"
    if name == "missing":
        return str(folder / "nowhere.wav")
    if name == "directory":
        return str(folder)
    if name == "empty":
        path.write_bytes(b"")
        return str(path)
    if name == "text":
        path.write_text("This is not a recording.\n" * 20)
        return str(path)
    samples = {
        "silent": np.zeros_like(second),
        "nan": np.where(np.arange(len(second)) == 99, np.nan, second),
        "short": second[:100],
        "crowded": np.repeat(second[:, None], 64, axis=1),
        "long": np.tile(second, 40),
    }[name]
    return write(path, samples)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "does not exist"),
        ("directory", "is a directory"),
        ("empty", "is empty"),
        ("text", "holds text"),
        ("silent", "silent|quiet"),
        ("nan", "NaN"),
        ("short", "too short"),
        ("crowded", "64 channels"),
        ("long", "too long"),
    ],
)
def test_a_bad_clip_gets_one_line_that_says_why(
    name: str, said: str, run: Run, options: list[str], tmp_path: Path
) -> None:
    status, out, err = run("ask", bad_clip(name, tmp_path), *options)
    last = err.strip().splitlines()[-1]
    assert (status, out) == (2, "")
    assert last.startswith("sarguard: error: ")
    assert re.search(said, last), last


def test_a_bad_clip_is_found_before_a_model_is_loaded(run: Run, tmp_path: Path) -> None:
    _, _, err = run("ask", bad_clip("empty", tmp_path), "--model", "no/such-model")
    assert "is empty" in err


def test_eight_kilohertz_will_do(run: Run, options: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "phone.wav", tiny.clip(1.0)[::2], 8000)
    assert run("ask", path, *options)[0] == 0


def test_a_model_without_a_bundle_says_how_to_make_one(
    run: Run, checkpoint: str, clip: str
) -> None:
    status, _, err = run("ask", clip, "--model", checkpoint)
    assert status == 2
    assert f"sarguard calibrate {checkpoint} -o bundle/" in err


def test_a_bundle_of_another_model_is_refused(
    run: Run, other_checkpoint: str, bundle: str, clip: str
) -> None:
    status, _, err = run("ask", clip, "--model", other_checkpoint, "--bundle", bundle)
    assert status == 2
    assert "the bundle was made for" in err


def test_a_directory_that_is_no_bundle_is_refused(
    run: Run, checkpoint: str, clip: str, tmp_path: Path
) -> None:
    status, _, err = run("ask", clip, "--model", checkpoint, "--bundle", str(tmp_path))
    assert status == 2
    assert "no vectors.safetensors" in err


def test_a_text_only_model_is_refused(
    run: Run, bundle: str, clip: str, tmp_path: Path
) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, _, err = run("ask", clip, "--model", str(tmp_path), "--bundle", bundle)
    assert status == 2
    assert "text-only" in err


def test_an_unknown_model_is_refused(
    run: Run, bundle: str, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, out, err = run("ask", clip, "--model", "no/such-model", "--bundle", bundle)
    assert (status, out) == (2, "")
    assert "no/such-model is neither a directory here" in err


@pytest.mark.reference
def test_the_reference_model_answers(run: Run, tmp_path: Path) -> None:
    spoken = next(c for c in load_clips("demo") if c.kind == "safe")
    path = tmp_path / "question.ogg"
    path.write_bytes(spoken.read_bytes())
    status, out, _ = run("ask", str(path), "--max-new-tokens", "16", "--json")
    reply = json.loads(out)
    assert status == 0
    assert reply["guard"]["layers"] == 30
    assert reply["guard"]["steered_positions"] == reply["usage"]["output_tokens"]
    assert find_collapse(reply["text"]) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--audit", "nowhere/audit.db"], "no folder for the ledger nowhere/audit.db"),
        (["--policy", "nowhere.yaml"], "nowhere.yaml"),
        (["--tier", "strictest"], "there is no tier 'strictest'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_command_line_judges_options_before_the_model(
    options: list[str], said: str, clip: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_model(*_: object, **__: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(load, "open_model", load_model)
    status, _, err = run("ask", *options, clip)
    assert status == 2
    assert said in err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_in_mid_answer_closes_the_ledger(
    number: signal.Signals,
    code: int,
    run: Run,
    options: list[str],
    clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_stream(events: Iterable[Event], *, live: bool) -> None:
        assert live is False
        next(iter(events))
        os.kill(os.getpid(), number)
        time.sleep(30)

    monkeypatch.setattr(ask, "write_stream", write_stream)
    before = signal.getsignal(signal.SIGTERM)
    ledger = tmp_path / "audit.db"
    # Long enough that the signal comes before its end.
    more = ["--max-new-tokens", "200", "--audit", str(ledger)]
    status, _, err = run("ask", clip, *options, *more)
    assert status == code
    assert "Traceback" not in err
    assert signal.getsignal(signal.SIGTERM) is before
    report = verify(ledger)
    assert report.ok
    # Signed to its end, and the request has one.
    assert (report.unfinished, report.signed_size) == (0, report.size)
    log = AuditLog.open(ledger, read_only=True)
    (ended,) = log.search(Query(kind="request_finished"))
    assert ended.values["outcome"] == "cancelled"
