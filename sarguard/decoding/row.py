"""One answer while it is decoded."""

from __future__ import annotations

from typing import Literal, TypeAlias

from sarguard.decoding.json_grammar import JsonMatcher
from sarguard.decoding.sampling import Sampling
from sarguard.errors import InvalidRequestError, SteeringNotAppliedError
from sarguard.steering.dose import Decision, DoseSpec

Ending: TypeAlias = Literal["stop", "length", "blocked", "unhealthy", "dropped"]
"""Why a row ended: a stop token or string, its limit, its dose, a state that was not
finite, or a caller who needs no more of it."""


class Row:
    """One row of a batch: what is asked of it, and its answer so far.

    A token is in `token_ids` only after its step's receipt was checked.
    """

    def __init__(
        self,
        *,
        dose: DoseSpec,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        matcher: JsonMatcher | None = None,
    ) -> None:
        if max_new_tokens < 1:
            raise InvalidRequestError(
                f"max_new_tokens is {max_new_tokens}: need 1 or more"
            )
        self.dose = dose
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling or Sampling()
        self.matcher = matcher
        """What the answer has to match; None where it may say anything."""
        self.decision: Decision | None = None
        """What the dose decided; None before that."""
        self.token_ids: list[int] = []
        """Answer tokens, without the token that ended it."""
        self.output_tokens = 0
        """Tokens chosen, the one that ended it among them."""
        self.ending: Ending | None = None
        self.steered = True
        """Whether the answer is steered; false only where its dose says `bare`."""
        self.divergence: float | None = None
        """How far steering moved the first token's distribution: Jensen-Shannon, in
        bits, 0 to 1; None outside shadow mode."""

    @property
    def alive(self) -> bool:
        """Return whether the row needs another token."""
        return self.ending is None

    @property
    def bare(self) -> bool:
        """Return whether the dose asks for the bare model's answer."""
        return self.decision is not None and self.decision.bare

    @property
    def alpha(self) -> float:
        """Return the steering coefficient that the dose decided on.

        Raises:
            SteeringNotAppliedError: Nothing was decided yet.
        """
        if self.decision is None:
            raise SteeringNotAppliedError(
                "a row's dose was not decided before it was decoded: prefill it first"
            )
        return self.decision.alpha

    @property
    def greedy_tokens(self) -> int:
        """Return how many tokens are chosen greedily before any is drawn."""
        return 0 if self.decision is None else self.decision.greedy_tokens

    @property
    def steered_positions(self) -> int:
        """Return the positions that were steered on every layer for this row.

        The step that chose a token proved that they are as many as the tokens.
        """
        return self.output_tokens if self.steered else 0

    def end(self, why: Ending) -> None:
        """End the row; the first reason stays."""
        self.ending = self.ending or why

    def take(self, token: int, *, stops: frozenset[int]) -> None:
        """Add a token that was proven to be steered."""
        self.output_tokens += 1
        # A stop token was chosen by a steered state and is counted, but is no text.
        if token in stops:
            self.end("stop")
            return
        self.token_ids.append(token)
        if self.output_tokens == self.max_new_tokens:
            self.end("length")
