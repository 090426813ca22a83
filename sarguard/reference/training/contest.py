"""CTC over a large vocabulary: a batch's own tokens compete with sampled rivals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Contest:
    """Which tokens compete for the frames of a batch; class 0 is the blank."""

    own: Tensor
    """Tokens that the batch says, as places in the vocabulary."""
    rivals: Tensor
    """Tokens that it does not say, drawn at random."""
    unsaid: int
    """How many tokens the rivals stand for."""
    spoken: Tensor
    """What is said as classes of the contest, one row after the other."""
    lengths: Tensor
    """How many classes each row says, (batch,)."""

    @classmethod
    def draw(
        cls,
        said: Sequence[Tensor],
        *,
        vocabulary: int,
        rivals: int,
        device: torch.device,
    ) -> Contest:
        """Return the contest of a batch.

        Args:
            said: What each row says, as places in the vocabulary counted from 1.
            vocabulary: How many tokens there are.
            rivals: How many of those that are not said compete.
            device: Where the scores are.
        """
        spoken = torch.cat(list(said)).to(device) - 1
        own = torch.unique(spoken)
        others = torch.ones(vocabulary, dtype=torch.bool, device=device)
        others[own] = False
        pool = others.nonzero().flatten()
        place = torch.zeros(vocabulary, dtype=torch.long, device=device)
        place[own] = torch.arange(len(own), device=device) + 1
        return cls(
            own=own,
            rivals=pool[torch.randperm(len(pool), device=device)[:rivals]],
            unsaid=len(pool),
            spoken=place[spoken],
            lengths=torch.tensor([len(tokens) for tokens in said], device=device),
        )

    @property
    def tokens(self) -> Tensor:
        """Return the tokens of classes 1 and up, as places in the vocabulary."""
        return torch.cat([self.own, self.rivals])

    def shares(self, scores: Tensor) -> Tensor:
        """Return log-probabilities, (n, batch, classes), of scores (batch, n, classes).

        The rivals' scores are raised, in place, by the log of how many tokens each of
        them stands for.
        """
        stands_for = max(1.0, self.unsaid / max(1, len(self.rivals)))
        scores[..., 1 + len(self.own) :] += math.log(stands_for)
        return F.log_softmax(scores, dim=-1).transpose(0, 1)
