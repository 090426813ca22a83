"""What it costs to import the package, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

from sarguard.bench.rows import Bar, Measured
from sarguard.errors import ConfigurationError

_CODE = (
    "import json, sys, time; begin = time.perf_counter(); import sarguard; "
    "taken = time.perf_counter() - begin; "
    "print(json.dumps([taken, 'torch' in sys.modules]))"
)


def measure_import(*, repeats: int) -> Measured:
    """Time `import sarguard`.

    Raises:
        ConfigurationError: It loads torch, which no repeat makes cheap.
    """
    found = [_import() for _ in range(repeats)]
    if any(heavy for _, heavy in found):
        raise ConfigurationError(
            "`import sarguard` loads torch here: does something on PYTHONPATH or in "
            "sitecustomize import it?"
        )
    return Measured(
        what="import sarguard",
        on="this machine",
        bar=Bar(sense="<", limit=0.3, unit="s"),
        values=tuple(seconds for seconds, _ in found),
        unit="s",
        note="torch is not imported",
    )


def _import() -> tuple[float, bool]:
    done = subprocess.run(
        [sys.executable, "-c", _CODE], check=True, capture_output=True, text=True
    )
    seconds, heavy = json.loads(done.stdout)
    return float(seconds), bool(heavy)
