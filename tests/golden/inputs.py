"""Make the frozen requests out of `inputs.yaml`; the one place for internal names."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sarguard import (
    ALLOW,
    BLOCK,
    CheckResult,
    InputCheck,
    InputView,
    Policy,
    SteeringBundle,
    Turn,
)
from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import Recipe
from sarguard.datasets import load_clips
from sarguard.steering.bundle import TierCard
from tests import tiny
from tests.audit import filled
from tests.contract.families import BUILDERS, fresh

HERE = Path(__file__).parent
BUNDLES = HERE / "bundles"
DATA: dict[str, Any] = yaml.safe_load((HERE / "inputs.yaml").read_text("utf-8"))
FLOORS = {"permissive": 0.02, "balanced": 0.05, "strict": 0.2, "maximum": 0.5}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Hold one request; `inputs.yaml` says what the fields are."""

    name: str
    ask: Any
    way: str = "generate"
    client: Mapping[str, Any] = field(default_factory=lambda: {"alpha": 0.1})
    family: str = "qwen2_audio"
    bundle: str | None = None
    likes: tuple[str, ...] = ()
    unhooked: bool = False

    def arguments(self) -> Any:  # noqa: ANN401
        """Return what the client is asked, with its sounds."""
        if isinstance(self.ask, list):
            return [_heard(ask) for ask in self.ask]
        return _heard(self.ask)

    def options(self) -> dict[str, Any]:
        """Return what the client is opened with."""
        options = dict(self.client)
        if isinstance(options.get("policy"), dict):
            options["policy"] = Policy.build(options["policy"])
        if "check" in options:
            options["input_checks"] = [CHECKS[options.pop("check")]]
        return options


def cases(part: str) -> list[Case]:
    """Return the requests of a part of `inputs.yaml`."""
    return [Case(name=name, **given) for name, given in DATA[part].items()]


def _broken(_view: InputView) -> CheckResult:
    raise OSError("no transcriber")


CHECKS = {
    "harmful": InputCheck(name="transcript", run=lambda _view: BLOCK),
    "harmless": InputCheck(name="transcript", run=lambda _view: ALLOW),
    "broken": InputCheck(name="transcript", run=_broken),
}
SOUNDS: dict[str, Any] = {
    "clip": (tiny.clip(0.5), tiny.RATE),
    "long": (tiny.clip(1.3, pitch=140), tiny.RATE),
    "other": (tiny.clip(0.7, pitch=300), tiny.RATE),
    "blip": (tiny.clip(0.01), tiny.RATE),
    "silence": (np.zeros(8000, np.float32), tiny.RATE),
    "empty": b"",
    "written": b"This is no recording.\n" * 20,
    "nowhere.wav": "nowhere.wav",
}


def _heard(ask: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(ask)
    if "audio" in ask:
        audio = ask["audio"]
        several = isinstance(audio, list)
        made["audio"] = [_sound(name) for name in audio] if several else _sound(audio)
    if "history" in ask:
        made["history"] = [
            Turn(**{**turn, "audio": [_sound(name)[0] for name in turn["audio"]]})
            for turn in ask["history"]
        ]
    return made


def _sound(name: str) -> Any:  # noqa: ANN401
    if name in SOUNDS:
        return SOUNDS[name]
    split, kind, place = name.split()
    return load_clips(split, kind)[int(place)].read_bytes()


@functools.cache
def tiny_model(family: str) -> tuple[Any, Any]:
    """Return a family's tiny model and processor."""
    torch.manual_seed(0)
    return BUILDERS[family]()


def calibrated(family: str = "qwen2_audio") -> SteeringBundle:
    """Return a bundle that is made anew from tones."""
    recipe = Recipe(rank=2)
    return calibrate(fresh(family), tiny.pairs(5), recipe, needs_refusal=False)


def with_tiers(bundle: SteeringBundle) -> SteeringBundle:
    """Return a bundle whose tiers differ by the score, and block nothing."""
    tiers = {
        name: TierCard(floor=floor, ceiling=2 * floor, low=0.0, high=50.0, block=1000.0)
        for name, floor in FLOORS.items()
    }
    return replace(bundle, card=bundle.card.model_copy(update={"tiers": tiers}))


def fill_ledger(folder: Path) -> str:
    """Make a ledger in a folder; return the name of its last request."""
    log, privacy = filled.ledger(folder, content="encrypted")
    with log:
        return [
            filled.ask(log, privacy, outcome=how, tenant="acme", session=f"call-{n}")
            for n, how in enumerate(("answered", "refused", "blocked"))
        ][-1]
