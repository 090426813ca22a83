"""The public names: importable, listed once, and private by convention beyond."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sarguard

PACKAGE = Path(sarguard.__file__).parent
# The rooms whose names users hold; a name of any other module may change at any time.
PUBLIC = (
    "sarguard",
    "sarguard.audio",
    "sarguard.audit",
    "sarguard.calibration",
    "sarguard.datasets",
    "sarguard.guard",
    "sarguard.models",
    "sarguard.opinions",
    "sarguard.policy",
    "sarguard.serving",
    "sarguard.steering",
)


@pytest.mark.parametrize("package", PUBLIC)
def test_names_are_sorted_and_real(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError):
        _ = module.no_such_name


def test_what_users_hold_is_importable_from_the_package() -> None:
    assert len(sarguard.__all__) <= 36
    wanted = {
        *("SafeAudioLLM", "Policy", "Override", "AuditLog", "SteeringBundle"),
        *("Event", "TextDelta", "Refusal", "Done", "AnswerStream"),
        *("AsyncAnswerStream", "Reply", "Outcome", "calibrate", "InputCheck"),
        *("OutputCheck", "Observer", "Health", "SarguardError"),
    }
    assert wanted <= set(sarguard.__all__)


@pytest.mark.parametrize("package", PUBLIC)
def test_a_name_is_public_at_one_depth_or_two(package: str) -> None:
    """The package's names are those of its rooms, not copies of them."""
    module = importlib.import_module(package)
    for name in set(module.__all__) & set(sarguard.__all__):
        assert getattr(module, name) is getattr(sarguard, name), name


@pytest.mark.parametrize(
    "package", [p for p in PUBLIC if p not in ("sarguard.audio", "sarguard.datasets")]
)
def test_importing_a_room_loads_nothing_heavy(package: str) -> None:
    code = (
        f"import sys, {package}; "
        "print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )
    assert done.stdout.strip() == "[]"


def test_the_version_is_the_distribution_s() -> None:
    from importlib.metadata import version

    assert sarguard.__version__ == version("sarguard")
