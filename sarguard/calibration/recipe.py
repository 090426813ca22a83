"""What calibration asks, and how much of the safe subspace it removes."""

from __future__ import annotations

from dataclasses import dataclass

from sarguard.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Hold the settings of SARSteer's calibration; the defaults are the paper's."""

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
