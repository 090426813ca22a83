"""What a ratio has to be read with: the machine, and what it ran."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from sarguard.models.transformers_api import installed_version


def describe_machine() -> dict[str, Any]:
    """Return the machine's make and load, and the versions in use."""
    gpus = [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "transformers": installed_version(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
