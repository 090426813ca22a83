"""Whether the packages that sarguard requires are installed, and fit, and load."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

from sarguard.cli.checks.finding import Finding, note, ok, problem

LEAST_PYTHON = (3, 11)

# Whole or half broken installations show when these are imported.
_TRIED = ("torch", "transformers", "soundfile")
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?")
_BOUND = re.compile(r"(>=|<=|==|!=|<|>)\s*([0-9][0-9A-Za-z.]*)")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}


def check_python() -> Finding:
    """Look at the interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return problem("python", found, f"use Python {least} or newer")
    return ok("python", f"{found} ({sys.executable})")


def check_packages() -> Iterator[Finding]:
    """Look at every required package."""
    try:
        required = metadata.requires("sarguard") or []
    except metadata.PackageNotFoundError:
        yield note(
            "sarguard",
            "used from a directory, not installed",
            "pip install -e . makes pip take care of what it requires",
        )
        required = list(_FALLBACK)
    for requirement in required:
        if "extra ==" not in requirement:
            yield _check(requirement)


def fits(version: str, bounds: str) -> bool:
    """Return whether a version is within bounds such as ">=5.23,<6"."""
    return all(
        _COMPARE[operator](*_padded(_numbers(version), _numbers(bound)))
        for operator, bound in _BOUND.findall(bounds)
    )


def _check(requirement: str) -> Finding:
    match = _REQUIREMENT.match(requirement)
    name, bounds = match.groups() if match else (requirement, "")
    bounds = bounds.strip()
    install = f"pip install '{name}{bounds}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return problem(name, f"not installed, need {bounds or 'any'}", install)
    if not fits(version, bounds):
        return problem(name, f"{version}, need {bounds}", install)
    fault = _import_fault(name) if name in _TRIED else None
    if fault is not None:
        return problem(
            name,
            f"{version} does not load: {fault}",
            f"pip install --force-reinstall '{name}{bounds}'",
        )
    return ok(name, version)


def _import_fault(name: str) -> str | None:
    try:
        importlib.import_module(name)
    # Whatever a broken package raises on import is what has to be shown.
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, leading.group().split("."))) if leading else ()


def _padded(
    first: tuple[int, ...], second: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    length = max(len(first), len(second))
    return (
        first + (0,) * (length - len(first)),
        second + (0,) * (length - len(second)),
    )


_FALLBACK = (
    "torch>=2.6",
    "transformers>=5.23,<6",
    "lazy-loader>=0.4",
    "librosa>=0.11",
    "soundfile>=0.13",
    "safetensors>=0.5",
    "numpy>=1.26",
    "pydantic>=2.7",
    "pyyaml>=6",
    "structlog>=24.1",
    "tenacity>=9",
    "gguf>=0.17",
    "filelock>=3.12",
    "soxr>=0.5",
    "rich>=13.7",
    "cryptography>=43",
)
