"""The sentences, clips and models that all stages of the training share."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
)

from sarguard.datasets import load_sentences
from sarguard.reference.assemble import ensure_bases
from sarguard.reference.build import build_untrained
from sarguard.reference.training import clips
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.corpus import (
    common_words,
    distinct,
    drills,
    normalise,
    rare_words,
    requests,
)
from sarguard.reference.training.hearing import SpeechEncoder
from sarguard.reference.training.train_hearing import Preprocessor
from sarguard.reference.training.wide_corpus import SentenceGenerator, all_words

REQUESTS, WIDE, DRILLS = 10_000, 34_000, 9_000
DRILLED_WORDS = 9_000
"""The tokenizer's commonest words; those that are rare in the sentences are drilled."""
LOOKED_UP = 6_144
"""Tokens in the lookup layer: the most frequent ones."""
HELD_OUT = 240
"""Number of sentences held out: half requests, half wide."""
RENDERINGS = (
    # name, unseen voices, seed of the voices
    ("requests", False, 0),
    ("wide", False, 1),
    ("drills", False, 5),
    ("held-out-seen", False, 2),
    ("held-out-unseen", True, 3),
)


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Training sentences of three sources, and sentences held out."""

    requests: list[str]
    wide: list[str]
    drills: list[str]
    held_out: list[str]

    def of(self, rendering: str) -> list[str]:
        """Return the sentences of one rendering."""
        if rendering.startswith("held-out"):
            return self.held_out
        found: list[str] = getattr(self, rendering)
        return found

    @property
    def trained(self) -> list[str]:
        """Return every sentence that training may hear."""
        return [*self.requests, *self.wide, *self.drills]


@dataclass(frozen=True)
class Workspace:
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
    def lines(self) -> Sentences:
        """Return the sentences, those of the shipped clips left out."""
        shipped = frozenset(normalise(s) for s in load_sentences())
        said = requests(REQUESTS, exclude=shipped)
        wide = distinct(
            SentenceGenerator(random.Random(0)).sentences(),
            WIDE,
            exclude=shipped | {normalise(s) for s in said},
        )
        common = common_words(self.untrained[1], DRILLED_WORDS)
        half = HELD_OUT // 2
        return Sentences(
            requests=said[:-half],
            wide=wide[:-half],
            drills=drills(rare_words([*common, *all_words()], said + wide), DRILLS),
            held_out=said[-half:] + wide[-half:],
        )

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """Return the feature extractor, tokenizer and classes of the CTC head."""
        tokenizer = self.untrained[1]
        extractor: Any = WhisperFeatureExtractor  # its constructor is untyped
        return Preprocessor(
            extractor=extractor(feature_size=80),
            tokenizer=tokenizer,
            vocabulary=self._vocabulary(tokenizer),
        )

    @cached_property
    def lookup_tokens(self) -> dict[int, float]:
        """Return the tokens that get a unit in the lookup, with how often each is said.

        A drill is half a sentence: it says words that few sentences need.
        """
        said = dict.fromkeys(self.preprocessor.vocabulary, 0.0)
        lines = self.lines
        for weight, texts in ((1.0, lines.requests + lines.wide), (0.5, lines.drills)):
            rows = self.preprocessor.tokenizer(texts, add_special_tokens=False)[
                "input_ids"
            ]
            for token in chain.from_iterable(rows):
                said[token] += weight
        kept = sorted(said, key=lambda token: (-said[token], token))[:LOOKED_UP]
        return {token: said[token] for token in sorted(kept)}

    @property
    def space(self) -> int:
        """Return the token id of a space."""
        (token,) = self.preprocessor.tokenizer(" ", add_special_tokens=False)[
            "input_ids"
        ]
        return int(token)

    def encoder(self) -> SpeechEncoder:
        """Return stage 1's model: tower layers and projector trainable."""
        torch.manual_seed(0)
        encoder = SpeechEncoder(self.untrained[0], self.preprocessor.vocabulary).to(
            self.device
        )
        for part in (encoder.tower.layers, encoder.tower.layer_norm, encoder.projector):
            part.requires_grad_(True)
        deviation = 0.4 * float(encoder.targets.std())
        torch.nn.init.normal_(encoder.projector.weight, std=deviation)
        torch.nn.init.zeros_(encoder.projector.bias)
        return encoder

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
        names = ("requests", "wide", *(["drills"] if drilled else []))
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
