"""One line of a run's results: what one arm did with one request.

An answer itself is not kept. How it begins is, where it is harmless: the request was,
or the answer refuses.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sarguard.evaluation.judges.rules import Label

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AnswerRecord(BaseModel):
    """Hold what one arm did with one request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: str
    """Name and dose, such as `ablated 0.1`."""
    item: str
    suite: str
    variant: str
    kind: Literal["harmful", "safe"]
    cluster: str
    topic: str = ""
    label: Label
    on_topic: bool | None = None
    """Whether the answer is about the request; None where that was not asked."""
    dose: float
    """Strength of steering; 0 in the arms that do not steer."""
    score: float | None = None
    """What the gate gave the request, asked as it is; None where the arm asks more."""
    blocked: bool = False
    """Whether nothing was decoded."""
    tokens: int
    seconds: _Seconds
    """From the start of decoding to the end of the batch, shared by its rows."""
    batch: int
    """Rows of the batch."""
    start: str = ""
    """The first words, where they are harmless."""
