"""The machine: its system, devices, threads, and optional programs."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator

from sarguard.cli.checks.finding import Finding, note, ok

_PROGRAMS = {
    "ffmpeg": "m4a, aac and webm clips can be decoded",
    "espeak-ng": "calibration clips can be rendered anew, and the training corpus",
    "flite": "calibration clips can be rendered anew, and the training corpus",
}


def check_platform() -> Finding:
    """Look at the system."""
    cores = len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count()
    return ok("platform", f"{platform.platform()}, {cores} CPU core(s)")


def check_devices() -> Iterator[Finding]:
    """Look at what torch can compute on."""
    try:
        import torch
    except Exception:  # the check of the packages says what is wrong with it
        return
    devices = [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        devices.append("Apple GPU (mps)")
    yield ok("devices", ", ".join(["CPU", *devices]))
    yield ok("threads", f"{torch.get_num_threads()} for torch")


def check_programs() -> Iterator[Finding]:
    """Look for optional programs."""
    for name, use in _PROGRAMS.items():
        path = shutil.which(name)
        if path is not None:
            yield ok(name, path)
        else:
            yield note(
                name,
                "not on PATH (optional)",
                f"with it, {use}; on Debian and Ubuntu: apt-get install {name}",
            )


def _has_affinity() -> bool:
    return hasattr(os, "sched_getaffinity")
