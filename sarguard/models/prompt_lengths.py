"""How long a prompt will be, counted before its features are made.

A prompt is what each of its turns takes, and what every prompt has. What a template
writes around a turn is measured once on short conversations, and what a clip takes on
a few clips of noise; after that, text is all that is encoded.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jinja2 import TemplateError

from sarguard.models.families import family_of
from sarguard.models.inputs import prompt_length
from sarguard.models.loading import LoadedModel
from sarguard.models.untyped import Config
from sarguard.types import Turn

# A letter that every tokenizer knows: one token, whatever stands around it.
_LETTER = "a"
_USER = Turn(role="user", text=_LETTER)
_ASSISTANT = Turn(role="assistant", text=_LETTER)
_SYSTEM = Turn(role="system", text=_LETTER)
# What control tokens begin with.
_BRACKETS = ("<", "[")
# Seconds of the clips that are measured.
_MEASURED_S = (0.1, 1.1, 8.3, 30.0, 60.0)
# Tokens for what falls between two measured clips: processors round more than once.
_ROUNDING = 2


def context_tokens(config: Config) -> int | None:
    """Return how many tokens a model was made to read; None where its config is silent.

    Args:
        config: The model's config, in which the text decoder's may be a part.
    """
    find = getattr(config, "get_text_config", None)
    for holder in (config if find is None else find(decoder=True), config):
        found = getattr(holder, "max_position_embeddings", None)
        if isinstance(found, int) and found > 0:
            return found
    return None


class PromptLengths:
    """Counts prompt tokens of conversations; any number of threads may ask."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Prepare to count for a model; it is measured when it is first needed.

        Args:
            loaded: The model, of which only the processor is used.
        """
        self._takes_arrays = family_of(loaded.model.config).takes_arrays
        if self._takes_arrays:
            # Encoding sets switches of the tokenizer. The model's thread must never
            # find them set for a caller's text: it would cut its control tokens up.
            loaded = replace(loaded, processor=copy.deepcopy(loaded.processor))
        self._loaded = loaded
        # For the same reason one thread at a time has the copy.
        self._lock = threading.Lock()
        self._template: _TemplateLengths | None = None
        self._clips: _ClipLengths | None = None

    def measure(self) -> None:
        """Measure the template and some clips now, so that no request waits for it."""
        with self._lock:
            self._template = self._measure_template()
            self._clips = self._measure_clips()

    def count(self, turns: Sequence[Turn]) -> list[int]:
        """Return the prompt tokens of each turn, rather too many than too few.

        Args:
            turns: A conversation; the last turn's number includes what every prompt
                has, and what opens the answer.
        """
        with self._lock:
            template = self._template = self._template or self._measure_template()
            counts = [
                self._text_tokens(turn.text) + template.around[turn.role]
                for turn in turns
            ]
            heard = itertools.count(1)
            for place, turn in enumerate(turns):
                for clip in turn.audio:
                    clips = self._clips = self._clips or self._measure_clips()
                    # Templates may number clips; long numbers are more tokens.
                    digits = len(str(next(heard)))
                    counts[place] += clips.most(clip.shape[-1]) + digits - 1
        with_system = bool(turns) and turns[0].role == "system"
        if counts:
            counts[-1] += (
                template.prompt_after_system if with_system else template.prompt
            )
        return counts

    def _text_tokens(self, text: str) -> int:
        # As the prompt has it: control tokens in what callers write are text.
        options: dict[str, object] = {}
        if self._takes_arrays:
            # That a text is too long is for us to say.
            options = {"split_special_tokens": True, "verbose": False}
        tokenizer = self._loaded.tokenizer
        found = len(tokenizer.encode(text, add_special_tokens=False, **options))
        # A text is cut otherwise where it has spaces at an edge, beside what a template
        # writes there, and around a control token that is encoded as text.
        spaces = text != text.strip()
        return found + spaces + sum(map(text.count, _BRACKETS))

    def _measure_template(self) -> _TemplateLengths:
        letter = self._text_tokens(_LETTER)
        one = self._length(_USER)
        exchange = self._length(_USER, _ASSISTANT, _USER) - one - 2 * letter
        try:
            user = self._length(_USER, _USER) - one - letter
        except TemplateError:
            # It wants turns to alternate, so that an exchange is never taken apart.
            user = exchange
        try:
            system = self._length(_SYSTEM, _USER) - letter
        except TemplateError:
            # It knows no system turn; whoever writes one hears so from the engine.
            system = one + exchange
        assistant = max(0, exchange - user)
        around = {"user": user, "assistant": assistant, "system": max(user, assistant)}
        return _TemplateLengths(
            around=around,
            prompt=one - letter - user,
            prompt_after_system=system - letter - user - around["system"],
        )

    def _measure_clips(self) -> _ClipLengths:
        loaded = self._loaded
        longest = loaded.max_audio_seconds
        seconds = sorted({min(s, longest) for s in _MEASURED_S})
        samples = [int(s * loaded.sampling_rate) for s in seconds]
        text = self._length(_USER)
        noise = np.random.default_rng(0).normal(scale=1e-3, size=samples[-1])
        found = [
            self._length(replace(_USER, audio=(noise[:size].astype(np.float32),)))
            for size in samples
        ]
        return _ClipLengths.fitted(samples, [max(0, n - text) for n in found])

    def _length(self, *turns: Turn) -> int:
        return prompt_length(self._loaded, turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TemplateLengths:
    """Tokens that a chat template writes beside what was said."""

    around: dict[str, int]
    """Around a turn, by its role."""
    prompt: int
    """In every prompt, with what opens the answer."""
    prompt_after_system: int
    """The same where a system turn comes first, in place of a template's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClipLengths:
    """Bounds on the tokens of a clip, whose number never falls with its length."""

    samples: tuple[int, ...]
    """Lengths that were measured, rising."""
    tokens: tuple[int, ...]
    """Tokens of a clip of each."""
    slope: float
    """Tokens a sample of a straight line above all that was measured."""
    height: float
    """Where that line begins."""

    @classmethod
    def fitted(cls, samples: Sequence[int], tokens: Sequence[int]) -> _ClipLengths:
        """Return the bounds that follow from some measured clips."""
        rises = [
            (more - less) / (longer - shorter)
            for (shorter, less), (longer, more) in itertools.pairwise(
                zip(samples, tokens, strict=True)
            )
        ]
        # The last stretch may hold no step of a processor that takes large ones.
        slope = max(rises[-1:], default=0.0)
        overall = (tokens[-1] - tokens[0]) / max(1, samples[-1] - samples[0])
        slope = max(slope, overall)
        height = max(n - slope * size for size, n in zip(samples, tokens, strict=True))
        return cls(
            samples=tuple(samples), tokens=tuple(tokens), slope=slope, height=height
        )

    def most(self, samples: int) -> int:
        """Return how many tokens a clip of a length takes at most."""
        line = math.ceil(self.slope * samples + self.height) + _ROUNDING
        for size, tokens in zip(self.samples, self.tokens, strict=True):
            if samples <= size:
                return min(tokens, line)
        return line
