"""Record what requests, commands and policies do: `python -m tests.golden.freeze`.

It writes the bundles and the JSON files, or only those that are named after it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.golden import commands, recording
from tests.golden.inputs import BUNDLES, HERE, calibrated, cases, with_tiers


def freeze_bundles() -> None:
    """Write a bundle of each tiny model with tiers that differ, and one as made."""
    shutil.rmtree(BUNDLES, ignore_errors=True)
    for family in {case.family: None for case in cases("requests")}:
        with_tiers(calibrated(family)).save(BUNDLES / family)
    calibrated().save(BUNDLES / "qwen2_audio_as_made")


def requests() -> dict[str, Any]:
    """Return what the requests to tiny models do."""
    found = {"calibration": recording.record_calibration()}
    for case in cases("requests"):
        with tempfile.TemporaryDirectory() as folder:
            found[case.name] = recording.record_tiny(case, Path(folder))
    return found


def reference() -> dict[str, Any]:
    """Return what the requests to the reference model do."""
    with tempfile.TemporaryDirectory() as folder:
        client = recording.open_reference(Path(folder))
        with client:
            found: dict[str, Any] = {"bundle": client.bundle.digest}
            for case in cases("reference"):
                found[case.name] = recording.record_reference(client, case)
    return found


def digests() -> dict[str, Any]:
    """Return digests and schemas."""
    with tempfile.TemporaryDirectory() as folder:
        return commands.record_digests(Path(folder))


def cli() -> dict[str, Any]:
    """Return what the commands give back."""
    found = {}
    for scene in commands.SCENES:
        with tempfile.TemporaryDirectory() as folder:
            found[scene] = commands.play(scene, Path(folder))
    return found


PARTS: tuple[Callable[[], dict[str, Any]], ...] = (requests, reference, digests, cli)

if __name__ == "__main__":
    wanted = sys.argv[1:] or ["bundles", *(part.__name__ for part in PARTS)]
    if "bundles" in wanted:
        freeze_bundles()
    for part in PARTS:
        if part.__name__ in wanted:
            text = json.dumps(part(), indent=1) + "\n"
            (HERE / f"{part.__name__}.json").write_text(text, "utf-8")
