"""Hold the error tree drawn in the docstring to the classes that exist."""

from __future__ import annotations

import builtins
import inspect
import pickle
import re

import pytest

from sarguard import errors

_LINE = re.compile(r"^(?P<bars>[│├└─ ]*)(?P<name>\w+Error)(?: \((?P<extra>\w+)\))?$")


def _drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Read the docstring's tree as {class: (parent, added builtin)}."""
    drawn: dict[str, tuple[str | None, str | None]] = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        depth = len(match["bars"]) // 4
        ancestors[depth:] = [match["name"]]
        drawn[match["name"]] = (
            ancestors[depth - 1] if depth else None,
            match["extra"],
        )
    return drawn


def _real_tree() -> dict[str, tuple[str | None, str | None]]:
    """Read the module's classes as {class: (parent, added builtin)}."""
    real: dict[str, tuple[str | None, str | None]] = {}
    for name, found in inspect.getmembers(errors, inspect.isclass):
        ours = [b.__name__ for b in found.__bases__ if b.__module__ == errors.__name__]
        added = [b.__name__ for b in found.__bases__ if hasattr(builtins, b.__name__)]
        assert len(ours) <= 1, f"{name} has two parents of ours"
        assert len(added) <= 1, f"{name} adds two builtins"
        real[name] = (ours[0] if ours else None, added[0] if added else None)
    return real


def _leaf(name: str) -> type[errors.SarguardError]:
    found: type[errors.SarguardError] = getattr(errors, name)
    return found


def test_docstring_tree_equals_the_classes() -> None:
    assert _drawn_tree() == _real_tree()


def test_drawn_order_is_the_order_of_definition() -> None:
    defined = sorted(
        _real_tree(), key=lambda name: inspect.getsourcelines(_leaf(name))[1]
    )
    assert list(_drawn_tree()) == defined


@pytest.mark.parametrize("name", sorted(_real_tree()))
def test_error_keeps_its_message(name: str) -> None:
    error = _leaf(name)("what was wrong, what was found, what to do")
    assert isinstance(error, errors.SarguardError)
    assert str(error) == "what was wrong, what was found, what to do"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", sorted(_real_tree()))
def test_error_says_what_it_means(name: str) -> None:
    doc = _leaf(name).__dict__.get("__doc__")
    assert doc
    assert doc.endswith(".")
