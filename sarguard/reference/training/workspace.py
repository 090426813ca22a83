"""The sentences, clips and models that all stages of the training share."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
)

from sarguard.datasets import load_sentences
from sarguard.reference.assemble import ensure_bases
from sarguard.reference.build import build_untrained
from sarguard.reference.training import clips
from sarguard.reference.training.clips import Clip, Voices
from sarguard.reference.training.corpus import (
    PROMPTS,
    common_words,
    distinct,
    drills,
    normalise,
    rare_words,
    requests,
)
from sarguard.reference.training.hearing import SpeechEncoder
from sarguard.reference.training.spelling import choose_units
from sarguard.reference.training.train_hearing import Preprocessor
from sarguard.reference.training.wide_corpus import SentenceGenerator, all_words
from sarguard.reference.training.written import load_written

console = Console(stderr=True)

REQUESTS, WIDE, DRILLS = 10_000, 24_000, 12_000
DRILLED_WORDS = 20_000
"""The tokenizer's commonest words; those that are rare in the sentences are drilled."""
UNITS = 6_144
"""Of the lookup layer; what is said is spelled in them."""
HELD_OUT = 240
"""Number of sentences held out: half requests, half wide."""
RENDERINGS: tuple[tuple[str, Voices, int], ...] = (
    # name, voices, seed of their choice
    ("held-out-seen", "natural", 2),
    ("held-out-unseen", "unseen", 3),
    ("written", "natural", 6),
    ("requests", "training", 0),
    ("wide", "training", 1),
    ("drills", "training", 5),
)


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Training sentences of four sources, and sentences held out."""

    written: list[str]
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
        return [*self.written, *self.requests, *self.wide, *self.drills]


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
        texts = load_written()
        written = [*texts.harmful, *texts.harmless]
        taken = shipped | {normalise(s) for s in written}
        said = requests(REQUESTS, exclude=taken)
        wide = distinct(
            SentenceGenerator(random.Random(0)).sentences(),
            WIDE,
            exclude=taken | {normalise(s) for s in said},
        )
        common = common_words(self.untrained[1], DRILLED_WORDS)
        half = HELD_OUT // 2
        rare = rare_words([*common, *all_words()], written + said + wide)
        return Sentences(
            written=written,
            requests=said[:-half],
            wide=wide[:-half],
            drills=drills(rare, DRILLS),
            held_out=said[-half:] + wide[-half:],
        )

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """Return the feature extractor, the tokenizer and the units of what is said."""
        tokenizer = self.untrained[1]
        extractor: Any = WhisperFeatureExtractor  # its constructor is untyped
        return Preprocessor(
            extractor=extractor(feature_size=80),
            tokenizer=tokenizer,
            vocabulary=tuple(choose_units(tokenizer, self._said, UNITS)),
        )

    @cached_property
    def unit_counts(self) -> dict[int, float]:
        """Return how often each unit is said."""
        spelling = self.preprocessor.spelling
        said = dict.fromkeys(self.preprocessor.vocabulary, 0.0)
        for token, times in self._said.items():
            for unit in spelling.spell([token]) if spelling.can_spell([token]) else ():
                said[unit] += times
        return said

    @cached_property
    def _said(self) -> dict[int, float]:
        """Return how often each token is said.

        A drill is half a sentence: it says words that few sentences need.
        """
        said: dict[int, float] = defaultdict(float)
        lines, tokenizer = self.lines, self.untrained[1]
        sentences = lines.written + lines.requests + lines.wide + lines.held_out
        for weight, texts in ((1.0, sentences), (0.5, lines.drills)):
            rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
            for token in chain.from_iterable(rows):
                said[token] += weight
        return dict(said)

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
        for name, voices, seed in RENDERINGS:
            said = self.lines.of(name)
            out = self.directory / "clips" / name
            for done in clips.render(
                said, out, voices=voices, seed=seed, workers=workers
            ):
                report(name, done, len(said))

    def training_clips(self) -> list[Clip]:
        """Return the clips to learn hearing from."""
        return self._clips("written", "requests", "wide", "drills")

    def harmless_clips(self) -> list[Clip]:
        """Return the clips to learn answering from.

        Harmful requests are left out, so that what the text model learnt of them in
        writing carries over by itself, or does not.
        """
        harmless = frozenset(load_written().harmless)
        prompts = frozenset(PROMPTS.read_text("utf-8").splitlines())
        return [
            clip
            for clip in self._clips("written", "requests", "wide")
            if clip.text in harmless or clip.text in prompts or clip.text in self._wide
        ]

    @cached_property
    def _wide(self) -> frozenset[str]:
        return frozenset(self.lines.wide)

    def _clips(self, *names: str) -> list[Clip]:
        found = [c for n in names for c in clips.load(self.directory / "clips" / n)]
        return [clip for clip in found if clip.seconds > 0.5]

    def report(self, line: str) -> None:
        """Show a line, and append it to the log."""
        console.log(line)
        with (self.directory / "train.log").open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def held_out_clips(self, group: str) -> list[Clip]:
        """Return held-out sentences in "seen" or "unseen" voices."""
        return clips.load(self.directory / "clips" / f"held-out-{group}")
