"""The rules of the package: who may import whom, and how large a module may be."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sarguard"
MODULES = sorted(PACKAGE.rglob("*.py"))
# What transformers renames or keeps to itself is read in one module.
API = PACKAGE / "models" / "transformers_api.py"
READ_THERE = (
    "past_key_values",
    "custom_generate",
    "prepare_inputs_for_generation",
    "_prefill(",
    "_optimize_model_for_decode",
    "_update_model_kwargs_for_generation",
    "_hf_peft_config_loaded",
    "_commit_hash",
    "_from_config",
    "no_init_weights",
    "cache_utils",
)
MAX_LINES = 700
HEAVY = ("torch", "transformers", "librosa")

# A room is a module or a package directly under sarguard/. A rule names every room
# that it may import, anywhere in its code; a room without a rule fails the tests.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "logs": set(),
    "refusal": set(),
    "option_values": {"errors"},
    "extras": {"errors"},
    "types": {"errors", "option_values"},
    "audio": {"errors", "logs"},
    "audit": {"audio", "errors", "extras", "logs", "types"},
    "policy": {"audio", "errors", "logs", "types"},
    "datasets": {"audio", "errors", "extras"},
    # Inputs are built from turns, and vectors are made from a loaded model.
    "models": {"audio", "errors", "extras", "logs", "types"},
    "steering": {"errors", "models", "types"},
    # What a gate scores leaves out silence around a clip's speech.
    "decoding": {"audio", "errors", "extras", "models", "steering", "types"},
    # A client may calibrate on the clips that ship with the package.
    "calibration": {"datasets", "decoding", "errors", "models", "steering", "types"},
    # Training reports how much its text model refuses.
    "reference": {
        *("audio", "datasets", "errors", "logs", "models", "refusal", "types"),
    },
    "bundles": {"errors", "option_values", "reference", "steering"},
    "serving": {
        *("audio", "decoding", "errors", "logs", "models", "option_values", "policy"),
        *("refusal", "steering", "types"),
    },
    "guard": {
        *("audit", "errors", "logs", "models", "policy", "serving", "steering"),
        *("types",),
    },
    # Checks and recognisers that a user hands to a client; no room needs them.
    "opinions": {
        *("datasets", "errors", "guard", "models", "reference", "serving", "types"),
    },
    "client_options": {
        *("audit", "errors", "guard", "option_values", "policy", "serving"),
        *("steering",),
    },
    "client": {
        *("audio", "audit", "bundles", "calibration", "client_options", "errors"),
        *("extras", "guard", "models", "option_values", "policy", "serving"),
        *("steering", "types"),
    },
    # An arm's dose is resolved as a client's is, by the guard.
    "evaluation": {
        *("audio", "calibration", "datasets", "decoding", "errors", "extras", "guard"),
        "models",
        *("reference", "refusal", "serving", "steering", "types"),
    },
    "bench": {
        *("audit", "calibration", "client", "datasets", "decoding", "errors"),
        *("models", "policy", "steering", "types"),
    },
    "cli": {
        *("audio", "audit", "bench", "bundles", "calibration", "client"),
        *("client_options", "datasets", "decoding", "errors", "evaluation", "extras"),
        *("guard", "models", "policy", "reference", "refusal", "steering", "types"),
    },
    "__main__": {"cli"},
}
# Rooms that a machine without an accelerator stack must be able to load.
WITHOUT_TORCH = (
    *("errors", "extras", "logs", "option_values", "refusal", "types", "audio"),
    *("audit", "policy"),
)


def name_of(module: Path) -> str:
    return module.relative_to(ROOT).as_posix()


def room_of(module: Path) -> str:
    """Return the room of a module; it is empty for the package itself."""
    first = module.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """Yield the full name of everything that a source imports, at any depth.

    Args:
        source: the module's code.
        package: the dotted parts of the package that the module stands in.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            parts = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def imports_of(module: Path) -> set[str]:
    package = module.relative_to(ROOT).parent.parts
    return set(imported(module.read_text(encoding="utf-8"), package))


def rooms_imported(names: set[str]) -> set[str]:
    """Reduce full names to the rooms of ours they are in.

    The package itself counts as the room "sarguard": what it exports comes from the
    rooms above. Its version does not.
    """
    ours = (name.split(".") for name in names if name.split(".")[0] == "sarguard")
    rooms = {parts[1] if len(parts) > 1 else "sarguard" for parts in ours}
    known = {room_of(module) for module in MODULES}
    return {
        room if room in known else "sarguard" for room in rooms if room != "__version__"
    }


def test_the_rules_leave_no_way_back() -> None:
    order = list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())
    assert set(order) == set(MAY_IMPORT)


def test_every_room_has_a_rule() -> None:
    rooms = {room_of(module) for module in MODULES} - {""}
    assert not rooms - set(MAY_IMPORT), "add the new room to MAY_IMPORT"


def imported_at_load(body: list[ast.stmt], known: set[str]) -> Iterator[str]:
    """Yield the known modules that are imported when a module is."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imported_at_load(node.orelse, known)
            continue
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                # A package is not waited for by a part of it that imports a part.
                part = f"{node.module}.{alias.name}"
                yield from {part if part in known else node.module} & known
        for name in ("body", "orelse", "finalbody"):
            yield from imported_at_load(getattr(node, name, []), known)


def test_no_module_waits_for_itself() -> None:
    """No circle of imports but those for types, and those inside functions."""
    names = {module: ".".join(module.relative_to(ROOT).parts) for module in MODULES}
    dotted = {
        module: name.removesuffix(".py").removesuffix(".__init__")
        for module, name in names.items()
    }
    known = set(dotted.values())
    graph = {
        name: {
            found
            for found in imported_at_load(
                ast.parse(module.read_text("utf-8")).body, known
            )
            if found != name
        }
        for module, name in dotted.items()
    }
    # A circle is a CycleError, which names it.
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(known)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_room_imports_what_it_may(module: Path) -> None:
    room = room_of(module)
    if not room:
        pytest.skip("the package exports from every room")
    forbidden = rooms_imported(imports_of(module)) - MAY_IMPORT[room] - {room}
    assert not forbidden, f"{name_of(module)} may not import {sorted(forbidden)}"


@pytest.mark.parametrize(
    "module", [m for m in MODULES if room_of(m) in WITHOUT_TORCH], ids=name_of
)
def test_a_light_room_never_imports_torch(module: Path) -> None:
    roots = {name.split(".")[0] for name in imports_of(module)}
    assert not roots & {"torch", "transformers"}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_does_not_assert(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    found = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not found, f"python -O strips the assert on lines {found}: raise instead"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_stays_small(module: Path) -> None:
    lines = len(module.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it, one concept a file"


@pytest.mark.parametrize("module", [m for m in MODULES if m != API], ids=name_of)
def test_names_that_transformers_may_change_are_read_in_one_module(
    module: Path,
) -> None:
    text = module.read_text(encoding="utf-8")
    pattern = "|".join(rf"(?<!\w){re.escape(name)}" for name in READ_THERE)
    found = sorted(set(re.findall(pattern, text)))
    assert not found, f"read {found} through {name_of(API)}"


def import_afresh(name: str) -> tuple[float, list[str]]:
    """Import a module in a new process; return its seconds and heavy companions."""
    code = (
        "import sys, time, json; start = time.perf_counter(); "
        f"import {name}; taken = time.perf_counter() - start; "
        f"print(json.dumps([taken, [m for m in {HEAVY!r} if m in sys.modules]]))"
    )
    program = [sys.executable, "-c", code]
    done = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, heavy = json.loads(done.stdout)
    return float(seconds), list(heavy)


@pytest.mark.parametrize("name", ["sarguard.errors", "sarguard.audio"])
def test_importing_a_light_room_loads_nothing_heavy(name: str) -> None:
    assert import_afresh(name)[1] == []


def test_importing_the_package_is_light(
    record_property: Callable[[str, object], None],
) -> None:
    runs = [import_afresh("sarguard") for _ in range(5)]
    assert [heavy for _, heavy in runs] == [[]] * 5
    best = min(seconds for seconds, _ in runs)
    # Reported, not asserted: a busy machine would fail it.
    record_property("import_seconds", best)
    print(f"import sarguard: {best:.3f} s, best of 5 (bar: 0.3 s)")


class TestTheCheckItself:
    """The rules find what they have to refuse."""

    def test_imports_are_found_at_any_depth(self) -> None:
        source = (
            "import torch.nn as nn\n"
            "from sarguard.client import SafeAudioLLM\n"
            "def load():\n"
            "    from ..steering import bundle\n"
            "    from .limits import AudioLimits\n"
            "    from . import samples\n"
        )
        assert set(imported(source, ("sarguard", "audio"))) == {
            "torch.nn",
            "sarguard.client.SafeAudioLLM",
            "sarguard.steering.bundle",
            "sarguard.audio.limits.AudioLimits",
            "sarguard.audio.samples",
        }

    def test_names_are_reduced_to_rooms(self) -> None:
        names = {
            "numpy.ndarray",
            "sarguard.audio.limits.AudioLimits",
            "sarguard.errors",
        }
        assert rooms_imported(names) == {"audio", "errors"}
        assert rooms_imported({"sarguard"}) == {"sarguard"}
        assert rooms_imported({"sarguard.SafeAudioLLM"}) == {"sarguard"}
        assert rooms_imported({"sarguard.__version__"}) == set()

    def test_a_heavy_import_is_seen(self) -> None:
        assert import_afresh("librosa")[1] == ["librosa"]

    def test_the_modules_are_found(self) -> None:
        assert PACKAGE / "errors.py" in MODULES
        assert room_of(PACKAGE / "errors.py") == "errors"
        assert room_of(PACKAGE / "audio" / "limits.py") == "audio"
        assert room_of(PACKAGE / "__init__.py") == ""
