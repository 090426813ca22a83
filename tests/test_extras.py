"""Optional packages: every extra has its words, and what is missing names its extra."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sarguard.audit.exports import parquet
from sarguard.datasets import natural
from sarguard.decoding import JsonGrammar
from sarguard.errors import ConfigurationError, MissingDependencyError
from sarguard.evaluation.judges.llm import LlmJudge
from sarguard.extras import EXTRAS, find_extra, missing_extra
from sarguard.models.loading import load_model
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
FOR_DEVELOPMENT = {"docs", "test"}


def test_every_extra_of_the_package_is_told_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {
        name: {re.split(r"[>=<\[]", package)[0] for package in packages}
        for name, packages in project["optional-dependencies"].items()
        if name not in FOR_DEVELOPMENT
    }
    assert {extra.name: {*extra.packages.values()} for extra in EXTRAS} == declared


def test_an_error_names_what_is_missing_and_how_to_get_it() -> None:
    broken = ImportError("libfoo.so is missing")
    said = str(missing_extra("json_schema", "json", broken))
    # It is installed here, and does not load.
    assert said == (
        "json_schema needs libfoo.so is missing: pip install 'sarguard[json]'"
    )


WITHOUT: dict[str, tuple[str, Callable[[], Any]]] = {
    "json": ("llguidance", lambda: JsonGrammar.compile(tiny.shared(), {})),
    "parquet": ("pyarrow", parquet._load),
    "accelerate": ("accelerate", lambda: load_model("x", device_map="auto")),
    "evaluate": ("httpx", lambda: LlmJudge(url="https://x.example", model="m")),
    "langchain": ("langchain_core", lambda: _import("langchain_sarguard")),
    "voices": ("hibari", lambda: natural.speak_hibari("Hello.")),
}


def _import(name: str) -> None:
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]
    __import__(name)


@pytest.mark.parametrize("name", WITHOUT)
def test_whatever_needs_an_extra_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, use = WITHOUT[name]
    # Another test may have spoken before.
    natural._hibari.cache_clear()
    for loaded in [*sys.modules]:
        if loaded.partition(".")[0] in (module, "langchain_sarguard"):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"sarguard\[") as raised:
        use()
    assert find_extra(name).install in str(raised.value)
    assert isinstance(raised.value, ImportError)
    assert isinstance(raised.value, ConfigurationError)
