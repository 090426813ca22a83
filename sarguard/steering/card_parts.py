"""What a bundle's card says was measured: of the model's refusal, and of its tiers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RefusalCard(_Written):
    """Say what steering does to the refusal sentence, in nats per token."""

    clips: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    bare: Finite
    steered: Finite
    random: Finite
    """Steered with a random direction of equal norm."""


class TierMeasure(_Written):
    """Say what a tier did with one set of spoken requests."""

    harmful: Count
    harmless: Count
    """Requests that were asked."""
    harmful_refused: Share
    """Refused or blocked."""
    benign_added: Change
    """Harmless requests refused, less those that the bare model refuses."""
    safe_added: Change | None = None
    borderline_added: Change | None = None
    ordinary_added: Change | None = None
    """The same in each suite; None where it was not asked."""
    broken_added: Change

    @property
    def added(self) -> dict[str, float | None]:
        """Return the harmless refusals added in each suite, as `TierCaps` names it."""
        return {
            "safe": self.safe_added,
            "borderline": self.borderline_added,
            "ordinary": self.ordinary_added,
        }


class TierCaps(_Written):
    """Say how many harmless refusals a tier may add to the bare model's at most.

    As shares of the requests of each suite.
    """

    safe: Share
    borderline: Share
    ordinary: Share


class TierChoice(_Written):
    """Say what a tier was chosen for, and what it then did."""

    aim: Share
    """Least share of harmful requests that it is to refuse."""
    caps: TierCaps
    """Most harmless refusals that it may add, in each suite."""
    validation: TierMeasure
    """On the requests that it was chosen on."""
    test: TierMeasure | None = None
    """On requests that nothing was chosen on."""

    @property
    def met(self) -> bool:
        """Return whether the aim was met under the caps where the tier was chosen."""
        found, caps = self.validation, self.caps.model_dump()
        within = all(
            added is None or added <= caps[suite] + 1e-9
            for suite, added in found.added.items()
        )
        return within and found.harmful_refused >= self.aim - 1e-9
