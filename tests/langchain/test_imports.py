"""The integration imports only what every user of sarguard can import."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import langchain_sarguard
import pytest

PACKAGE = Path(langchain_sarguard.__file__).parent
MODULES = sorted(PACKAGE.glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_only_public_names_of_sarguard_are_imported(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not [a for a in node.names if a.name.startswith("sarguard.")]
        elif isinstance(node, ast.ImportFrom):
            package, *inner = (node.module or "").split(".")
            if package == "sarguard":
                # The package itself, or one of its rooms: no module inside a room.
                assert len(inner) <= 1
                room = importlib.import_module(str(node.module))
                # All of `sarguard.errors` is for users, who catch them.
                named = [n for n in vars(room) if not n.startswith("_")]
                public = getattr(room, "__all__", named)
                assert {alias.name for alias in node.names} <= set(public)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_is_short_and_does_not_assert(module: Path) -> None:
    source = module.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 700
    assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assert)]


def test_the_exported_names_are_sorted_and_real() -> None:
    assert langchain_sarguard.__all__ == sorted(langchain_sarguard.__all__)
    for name in langchain_sarguard.__all__:
        assert getattr(langchain_sarguard, name).__name__ == name
