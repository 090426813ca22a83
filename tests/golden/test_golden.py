"""Hold everything that callers see to what was frozen; see `freeze.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sarguard import SafeAudioLLM
from tests.golden import commands, inputs, recording

HERE = Path(__file__).parent
_MISSING = "nothing"


def frozen(part: str) -> dict[str, Any]:
    """Return a part of what was frozen."""
    content: dict[str, Any] = json.loads((HERE / f"{part}.json").read_text("utf-8"))
    return content


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401
    """Yield each field that differs, with what it was and what it is."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            was, now = old.get(name, _MISSING), new.get(name, _MISSING)
            yield from differences(was, now, f"{path}.{name}" if path else name)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from differences(was, now, f"{path}[{place}]")
    elif not same(old, new):
        yield f"{path}: was {old!r}, is {new!r}"


def same(old: object, new: object) -> bool:
    """Tell whether two values are equal, or close where they are fractions."""
    if type(old) is not type(new):
        return False
    if isinstance(old, float) and isinstance(new, float):
        # The ledger keeps six decimals, so a tiny step there may be a whole one.
        step = 1.5e-6 if round(old, 6) == old else 0.0
        return math.isclose(old, new, rel_tol=1e-5, abs_tol=step)
    return old == new


def changed(part: str, name: str) -> list[str]:
    """Return the differences that were made on purpose; `changes.yaml` says why."""
    content: dict[str, dict[str, list[str]]] = yaml.safe_load(
        (HERE / "changes.yaml").read_text("utf-8")
    )
    return content.get(part, {}).get(name, [])


def check(part: str, name: str, found: object) -> None:
    """Fail with every field of a request that is not what was frozen."""
    plain = json.loads(json.dumps(found))
    expected = changed(part, name)
    actual = list(differences(frozen(part).get(name, _MISSING), plain))
    lines = [line for line in actual if line not in expected]
    lines += [f"no longer so: {line}" for line in expected if line not in actual]
    if lines:
        said = "\n  ".join([*lines[:20], *(["..."] if len(lines) > 20 else [])])
        pytest.fail(f"{part} / {name} is not what it was:\n  {said}", pytrace=False)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SafeAudioLLM]:
    """Return a client of the reference model, with a ledger."""
    with recording.open_reference(tmp_path_factory.mktemp("ledger")) as client:
        yield client


@pytest.mark.parametrize("case", inputs.cases("requests"), ids=lambda case: case.name)
def test_a_request_to_a_tiny_model(case: inputs.Case, tmp_path: Path) -> None:
    if "json_schema" in case.ask:
        pytest.importorskip("llguidance")
    check("requests", case.name, recording.record_tiny(case, tmp_path))


def test_calibration() -> None:
    check("requests", "calibration", recording.record_calibration())


@pytest.mark.reference
@pytest.mark.parametrize("case", inputs.cases("reference"), ids=lambda case: case.name)
def test_a_request_to_the_reference_model(
    case: inputs.Case, reference: SafeAudioLLM
) -> None:
    check("reference", case.name, recording.record_reference(reference, case))


@pytest.mark.reference
def test_the_reference_models_bundle(reference: SafeAudioLLM) -> None:
    check("reference", "bundle", reference.bundle.digest)


def test_policies_and_bundles(tmp_path: Path) -> None:
    for name, found in commands.record_digests(tmp_path).items():
        check("digests", name, found)


@pytest.mark.parametrize("scene", commands.SCENES)
def test_commands(scene: str, tmp_path: Path) -> None:
    check("cli", scene, commands.play(scene, tmp_path))


def test_the_check_itself_names_what_differs() -> None:
    old = {
        "guard": {"alpha": 0.1},
        "said": [1, {"event": "Done"}],
        "score": 0.123456789,
    }
    new = {
        "guard": {"alpha": 0.1001},
        "said": [1.0, {}],
        "score": 0.12345679,
        "more": 1,
    }
    assert list(differences(old, new)) == [
        "guard.alpha: was 0.1, is 0.1001",
        "said[0]: was 1, is 1.0",
        "said[1].event: was 'Done', is 'nothing'",
        "more: was 'nothing', is 1",
    ]
