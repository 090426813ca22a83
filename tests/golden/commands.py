"""Record what the command line gives back: exit statuses and the keys of its JSON."""

from __future__ import annotations

import io
import json
import os
import runpy
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import soundfile

from sarguard import Policy, SteeringBundle
from tests import tiny
from tests.golden.inputs import BUNDLES, DATA, fill_ledger, tiny_model

SCENES: dict[str, list[str]] = DATA["commands"]
PRESETS = ("permissive", "balanced", "strict", "maximum", "healthcare", "development")
MODEL = "--model tiny --bundle bundle --max-new-tokens 4"
NAMES = ("$defs", "title", "description", "mapping")
"""What a schema holds of the names of classes and their docstrings."""


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command line as `python -m sarguard` does: status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", ["sarguard", *arguments])
    status: Any = 0
    with redirect_stdout(out), redirect_stderr(err), argv:
        try:
            runpy.run_module("sarguard", run_name="__main__")
        except SystemExit as error:
            status = error.code
    return int(status or 0), out.getvalue(), err.getvalue()


def play(scene: str, folder: Path) -> dict[str, Any]:
    """Run a scene's commands in order, in a folder with what they need."""
    home = Path.cwd()
    os.chdir(folder)
    try:
        known = {"MODEL": MODEL, "REQUEST": _furnish()}
        lines = enumerate(SCENES[scene], start=1)
        return {f"{n} {line}": _result(line, known, folder) for n, line in lines}
    finally:
        os.chdir(home)


def record_digests(folder: Path) -> dict[str, Any]:
    """Return the digests of policies and bundles, and the schemas that are public."""
    path = folder / "clinic.yaml"
    path.write_text(DATA["files"][path.name], "utf-8")
    clinic = Policy.load(path)
    fill_ledger(folder)
    pack = folder / "evidence.zip"
    ledger = str(folder / "audit.db")
    run("audit", "export", "-l", ledger, "-f", "evidence", "-o", str(pack))
    with zipfile.ZipFile(pack) as files:
        (name,) = [n for n in files.namelist() if n.endswith("schema.json")]
        records = json.loads(files.read(name))
    return {
        "presets": {name: Policy.preset(name).digest for name in PRESETS},
        "clinic": {"digest": clinic.digest, "canonical": clinic.canonical()},
        "bundles": {p.name: SteeringBundle.load(p).digest for p in BUNDLES.iterdir()},
        "policy schema": _unnamed(json.loads(run("policy", "schema")[1])),
        "record schema": _unnamed(records),
    }


def shape(value: Any) -> Any:  # noqa: ANN401
    """Return the keys of a value and the types of what they hold."""
    if isinstance(value, dict):
        # What hardware there is belongs to the machine.
        return {k: "list" if k == "gpus" else shape(v) for k, v in value.items()}
    if isinstance(value, list):
        found = [shape(part) for part in value]
        return [part for i, part in enumerate(found) if part not in found[:i]]
    return type(value).__name__


def _result(line: str, known: dict[str, str], folder: Path) -> dict[str, Any]:
    asked = line
    for name, value in known.items():
        asked = asked.replace(name, value)
    status, out, err = run(*asked.split())
    result: dict[str, Any] = {"status": status}
    content = _read_json(out)
    if content:
        result["json"] = shape(content)
    if line.startswith("audit hold place"):
        known["HOLD"] = content[0]["hold_id"]
    _, mark, error = err.rpartition("sarguard: error: ")
    # What argparse says differs between versions of Python.
    if mark and "usage: " not in err:
        for name, value in {**known, "~": str(folder)}.items():
            error = error.replace(value, name)
        result["error"] = error.strip()
    return result


def _read_json(out: str) -> list[Any]:
    """Return what a command wrote as JSON: the values, of any number."""
    found: list[Any] = []
    rest = out.strip()
    while rest:
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
        except ValueError:
            return []
        found.append(value)
        rest = rest[end:].lstrip()
    return found


def _furnish() -> str:
    model, processor = tiny_model("qwen2_audio")
    model.save_pretrained("tiny")
    processor.save_pretrained("tiny")
    SteeringBundle.load(BUNDLES / "qwen2_audio").save("bundle")
    soundfile.write("question.wav", tiny.clip(1.0), tiny.RATE)
    for name, text in DATA["files"].items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, "utf-8")
    return fill_ledger(Path())


def _unnamed(schema: Any, names: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
    """Return a schema with its definitions in place, and without their names."""
    if isinstance(schema, list):
        return [_unnamed(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    names = schema.get("$defs", names) or {}
    if "$ref" in schema:
        target = names[schema["$ref"].rpartition("/")[2]]
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    kept = {k: v for k, v in schema.items() if not (k in NAMES and _is_name(k, v))}
    return {k: _unnamed(v, names) for k, v in kept.items()}


def _is_name(key: str, value: object) -> bool:
    # A property may be called `title` or `description`; then it is a schema itself.
    return key in ("$defs", "mapping") or isinstance(value, str)
