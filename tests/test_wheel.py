"""Build the wheel and hold it to what an installation needs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 100_000_000
"""What the Python Package Index takes without asking."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built as pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    program = [sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder)]
    done = subprocess.run([*program, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def names(built: Path) -> set[str]:
    with zipfile.ZipFile(built) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that holds what pip would put into site-packages."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built) as wheel:
        wheel.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def metadata(unpacked: Path) -> Message:
    (path,) = unpacked.glob("*.dist-info/METADATA")
    return Parser().parsestr(path.read_text(encoding="utf-8"))


def files_under(folder: Path) -> set[str]:
    """Name every file of a package, as the wheel should name it."""
    return {
        path.relative_to(folder.parent).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("package", ["sarguard", "integrations/langchain_sarguard"])
def test_a_package_is_in_it_whole(package: str, names: set[str]) -> None:
    assert files_under(ROOT / package) - names == set()


@pytest.mark.parametrize(
    "name",
    [
        "sarguard/py.typed",
        "sarguard/datasets/manifest.jsonl",
        "sarguard/datasets/texts.jsonl",
        "sarguard/reference/chat_template.jinja",
        "langchain_sarguard/py.typed",
        "langchain_sarguard/chat_models.py",
    ],
)
def test_it_holds_what_is_no_code(name: str, names: set[str]) -> None:
    assert name in names


@pytest.mark.reference
@pytest.mark.parametrize(
    "name",
    [
        "sarguard/reference/weights/difference.safetensors",
        "sarguard/reference/bundle/vectors.safetensors",
        "sarguard/reference/bundle/card.json",
    ],
)
def test_it_holds_the_reference_model(name: str, names: set[str]) -> None:
    assert name in names


def test_it_holds_every_clip_of_the_manifest(names: set[str]) -> None:
    manifest = ROOT / "sarguard" / "datasets" / "manifest.jsonl"
    rows = manifest.read_text(encoding="utf-8").splitlines()
    clips = {f"sarguard/datasets/{json.loads(row)['file']}" for row in rows}
    assert len(clips) > 500
    assert clips - names == set()


def test_it_holds_nothing_else(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "langchain_sarguard",
        "sarguard",
    }
    strangers = ("/tests/", "test_", "conftest", "__pycache__", ".pyc")
    assert [n for n in names if any(stranger in n for stranger in strangers)] == []


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE"])
def test_the_licence_travels_along(name: str, unpacked: Path) -> None:
    (path,) = unpacked.glob(f"*.dist-info/licenses/{name}")
    assert path.read_bytes() == (ROOT / name).read_bytes()


def test_the_metadata_is_complete(metadata: Message, unpacked: Path) -> None:
    assert metadata["Name"] == "sarguard"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "langchain" in metadata.get_all("Provides-Extra", [])
    assert str(metadata.get_payload()).strip(), "README is not in the metadata"
    (scripts,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "sarguard = sarguard.cli.main:main" in scripts.read_text(encoding="utf-8")


def test_it_is_small_enough_to_publish(built: Path) -> None:
    assert built.stat().st_size < MOST_BYTES


def test_what_is_unpacked_works_by_itself(unpacked: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
        "import sarguard, langchain_sarguard, sarguard.cli.main\n"
        "from sarguard.datasets import load_clips\n"
        "clips = [clip.load() for clip in load_clips('demo')]\n"
        "print(len(clips), sarguard.__file__, langchain_sarguard.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    count, *files = done.stdout.split()
    assert int(count) == 12
    assert all(file.startswith(str(unpacked)) for file in files)


def test_an_editable_install_finds_both_packages(tmp_path: Path) -> None:
    # pip asks the build backend for this at `pip install -e .`.
    code = f"import hatchling.build as b; print(b.build_editable({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        (path_file,) = (n for n in wheel.namelist() if n.endswith(".pth"))
        folders = wheel.read(path_file).decode().splitlines()
    for package in ("sarguard", "langchain_sarguard"):
        found = [f for f in folders if (Path(f) / package / "__init__.py").is_file()]
        assert found, f"{package} cannot be imported from {folders}"
