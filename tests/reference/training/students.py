"""A tiny model to train: the reference model's layout, random weights, a few clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import transformers

from sarguard.reference.tokenizer import build_processor
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.hearing import SpeechEncoder
from sarguard.reference.training.lookup import LookupEncoder, build_lookup
from sarguard.reference.training.stage import TimeBudget
from sarguard.reference.training.train_hearing import Preprocessor
from tests import tiny

LAYERS = 30
"""As many as the reference model has: stage 2 matches the states of layers 12 to 29."""
SENTENCES = ("feed the cat", "open a door", "cook some rice", "sing a song")


@dataclass(frozen=True)
class Student:
    model: tiny.Model
    processor: tiny.Processor

    @property
    def tokenizer(self) -> transformers.PreTrainedTokenizerFast:
        return self.processor.tokenizer

    @property
    def preprocessor(self) -> Preprocessor:
        letters = self.tokenizer("abcdefghijklmnopqrstuvwxyz ")["input_ids"]
        return Preprocessor(
            extractor=self.processor.feature_extractor,
            tokenizer=self.tokenizer,
            vocabulary=tuple(sorted(letters)),
        )

    def encoder(self) -> SpeechEncoder:
        """Return stage 1's model, trainable where the training makes it so."""
        encoder = SpeechEncoder(self.model, self.preprocessor.vocabulary)
        for part in (encoder.tower.layers, encoder.tower.layer_norm, encoder.projector):
            part.requires_grad_(True)
        return encoder

    @property
    def space(self) -> int:
        """Return the token id of a space."""
        (token,) = self.tokenizer(" ", add_special_tokens=False)["input_ids"]
        return token

    def lookup(self, *, leave_out: int = 0) -> LookupEncoder:
        """Return stage 2's model, trainable where the training makes it so.

        Args:
            leave_out: How many of its first units it does without.
        """
        said = {
            token: 1.0 + place
            for place, token in enumerate(self.preprocessor.vocabulary)
            if place >= leave_out
        }
        return build_lookup(self.model, self.encoder(), said, space=self.space)


def student(*, layers: int = LAYERS, seed: int = 0) -> Student:
    """Return a frozen tiny Qwen2-Audio; equal seeds give equal weights."""
    torch.manual_seed(seed)
    model, processor = tiny.qwen2_audio(layers=layers)
    model.requires_grad_(False)
    # Weights of the usual size would leave attention flat, and its mask unseen.
    for parameter in model.model.audio_tower.layers.parameters():
        parameter.mul_(8.0)
    return Student(model, build_processor(processor.tokenizer))


def clips() -> list[Clip]:
    """Return one clip a sentence, all of different length and pitch."""
    return [
        Clip(text=text, voice="tone", samples=spoken(0.9 + 0.21 * i, seed=i))
        for i, text in enumerate(SENTENCES)
    ]


def spoken(seconds: float, *, seed: int) -> np.ndarray:
    """Return a tone as int16."""
    tone = tiny.clip(seconds, pitch=120 + 37 * seed, seed=seed)
    return np.rint(tone * 20_000).astype(np.int16)


class StepBudget(TimeBudget):
    """A budget that a training step moves on by one second, and nothing else."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.made = 0

    def seconds(self) -> float:
        return self.spent + self.made

    def fraction(self) -> float:
        """Return the part used; the training asks once a step."""
        part = super().fraction()
        self.made += 1
        return part
