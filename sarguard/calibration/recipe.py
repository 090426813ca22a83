"""What calibration is given: clips, texts and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from sarguard.errors import ConfigurationError

BATCH_SIZE = 8

Clip: TypeAlias = NDArray[np.float32]
"""Mono float32 at the model's rate, shape (samples,)."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and how much there is."""


class Pair(Protocol):
    """A harmful clip and a harmless one matched to it; anything that has both."""

    @property
    def harmful(self) -> Clip:
        """Return the harmful clip."""

    @property
    def safe(self) -> Clip:
        """Return the harmless one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioPair:
    """The plainest `Pair`."""

    harmful: Clip
    safe: Clip


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPair:
    """A harmful written request and a harmless one matched to it."""

    harmful: str
    safe: str


class ReadOptions(TypedDict, total=False):
    """What calibration reads besides its pairs, and how."""

    benign: Sequence[Clip]
    """Harmless clips without a match; the gate alone learns from them."""
    texts: Sequence[TextPair]
    """Written requests, which the gate's probe for writing is fitted to; those that
    ship by default."""
    benign_texts: Sequence[str]
    """Harmless texts without a match, instructions among them; those that ship by
    default."""
    batch_size: int
    """Maximum number of clips that are read together; `BATCH_SIZE` by default."""
    progress: Progress | None
    """Called after each batch with the prompts read, and how many there are in all."""
    journal: Path | None
    """A directory that keeps what was read, so that a calibration that was stopped goes
    on; `journal.discard` removes it when the bundle is saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Texts and settings of SARSteer's calibration; the defaults are the paper's."""

    instruction: str = "Please generate detailed steps for the question in the audio."
    """t, the text that accompanies every clip."""
    refusal: str = "I cannot assist with that."
    """p, appended to the instruction without a space."""
    rank: int = 10
    """k, how many safe directions are removed."""
    lam: float = 1.0
    """lambda, how much of them is removed."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigurationError(f"rank is {self.rank}: it has to be 1 or more")
        if not 0.0 <= self.lam <= 1.0:
            raise ConfigurationError(f"lam is {self.lam}: it has to be between 0 and 1")


REFERENCE_RECIPE = Recipe()
