"""The sentences, clips and models that both stages of the training share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
)

from sarguard.calibration_data import load_sentences
from sarguard.reference.assemble import ensure_bases
from sarguard.reference.build import build_untrained
from sarguard.reference.training import clips
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.corpus import (
    common_words,
    drills,
    normalise,
    sentences,
)
from sarguard.reference.training.hearing import Hearing
from sarguard.reference.training.train_hearing import Ears

SENTENCES, HELD_OUT = 12_000, 240
RENDERINGS = (
    # name, unseen voices, seed of the voices
    ("requests-a", False, 0),
    ("requests-b", False, 1),
    ("drills-common", False, 5),
    ("drills-rare", False, 6),
    ("held-out-seen", False, 2),
    ("held-out-unseen", True, 3),
)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What is said: training requests, word drills, and requests held out."""

    requests: list[str]
    common: list[str]
    rare: list[str]
    held_out: list[str]

    def of(self, rendering: str) -> list[str]:
        """Return the sentences of one rendering."""
        if rendering.startswith("requests"):
            return self.requests
        if rendering.startswith("held-out"):
            return self.held_out
        return self.common if rendering == "drills-common" else self.rare

    @property
    def trained(self) -> list[str]:
        """Return every sentence that training may hear."""
        return [*self.requests, *self.common, *self.rare]


@dataclass(frozen=True)
class School:
    """A training directory and what can be derived from the public bases."""

    directory: Path
    device: torch.device

    @cached_property
    def untrained(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the untrained model, frozen, on the device, and its tokenizer."""
        built, processor = build_untrained(ensure_bases())
        model: Any = built.requires_grad_(False)
        return model.to(self.device), processor.tokenizer

    @cached_property
    def lines(self) -> Lines:
        """Return the sentences, those of the shipped clips left out."""
        shipped = frozenset(normalise(s) for s in load_sentences())
        found = sentences(SENTENCES, exclude=shipped)
        words = common_words(self.untrained[1], 16_000)
        return Lines(
            requests=found[: -HELD_OUT - 60],
            held_out=found[-HELD_OUT:],
            common=drills(words[:7_000], 10_000),
            rare=drills(words[7_000:], 9_000, seed=1),
        )

    @cached_property
    def ears(self) -> Ears:
        """Return the feature extractor, tokenizer and classes of the CTC head."""
        tokenizer = self.untrained[1]
        extractor: Any = WhisperFeatureExtractor  # its constructor is untyped
        return Ears(
            extractor=extractor(feature_size=80),
            tokenizer=tokenizer,
            vocabulary=self._vocabulary(tokenizer),
        )

    def hearing(self) -> Hearing:
        """Return stage 1's model: tower layers and projector trainable."""
        torch.manual_seed(0)
        hearing = Hearing(self.untrained[0], self.ears.vocabulary).to(self.device)
        for part in (hearing.tower.layers, hearing.tower.layer_norm, hearing.projector):
            part.requires_grad_(True)
        deviation = 0.4 * float(hearing.targets.std())
        torch.nn.init.normal_(hearing.projector.weight, std=deviation)
        torch.nn.init.zeros_(hearing.projector.bias)
        return hearing

    def render(self, report: Callable[[str, int, int], None]) -> None:
        """Speak every sentence that is not on disk yet."""
        workers = os.cpu_count() or 1
        for name, unseen, seed in RENDERINGS:
            said = self.lines.of(name)
            out = self.directory / "clips" / name
            for done in clips.render(
                said, out, unseen=unseen, seed=seed, workers=workers
            ):
                report(name, done, len(said))

    def training_clips(self, *, drilled: bool) -> list[Clip]:
        """Return the clips to train on, with or without the word drills."""
        kinds = ("requests", "drills") if drilled else ("requests",)
        names = [name for name, *_ in RENDERINGS if name.startswith(kinds)]
        found = [c for n in names for c in clips.load(self.directory / "clips" / n)]
        return [clip for clip in found if clip.seconds > 0.5]

    def held_out_clips(self, group: str) -> list[Clip]:
        """Return held-out sentences in "seen" or "unseen" voices."""
        return clips.load(self.directory / "clips" / f"held-out-{group}")

    def _vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        path = self.directory / "vocabulary.json"
        if not path.exists():
            said = [*self.lines.trained, *self.lines.held_out]
            pieces = tokenizer(said, add_special_tokens=False)["input_ids"]
            found = sorted({piece for row in pieces for piece in row})
            path.write_text(json.dumps(found), "utf-8")
        return tuple(json.loads(path.read_text("utf-8")))
