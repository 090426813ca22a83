"""Fitting a probe: shrunken linear discriminant analysis, one direction a layer.

With H and S (N, D) the last-token states of one layer on harmful clips and on their
matched harmless ones,

    m = mean(H) - mean(S)
    C = (1 - gamma) X^T X / M + gamma t I,   X the centred rows of H, of S and of H - S
    w = C^-1 m                               t the mean variance of X's columns

A state h scores (w.h - c) / s, where c lies halfway between the two groups' means and
s makes them +1 and -1. The probe's score is the mean over the upper half of the layers.

A clip may be read in several input forms (with the instruction, without it): the rows
then hold all of them, and what the form adds counts as spread, so that w hardly looks
at it.

The differences H - S of the pairs are rows of X so that what a pair shares (topic,
voice) is not mistaken for harm. The shrinkage estimate is that of Friedman,
"Regularized Discriminant Analysis", 1989, with the identity as target.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sarguard.errors import (
    ConfigurationError,
    DegenerateDirectionError,
    InsufficientDataError,
)
from sarguard.steering.gate import LinearProbe

# Not tuned on the test split, where 0.1 gave a point or two more of area: within chance
# for its number of requests.
SHRINKAGE = 0.5
FOLDS = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchedStates:
    """The states that a gate is fitted to, float32."""

    harmful: Tensor
    """On harmful clips, shape (N, L, D)."""
    safe: Tensor
    """On the harmless clips matched to them, in the same order, shape (N, L, D)."""
    benign: Tensor | None = None
    """On more harmless clips, unmatched, shape (M, L, D)."""
    forms: int = 1
    """Input forms in which each clip was read; those of one clip are adjacent rows."""

    def interleave(self, other: MatchedStates) -> MatchedStates:
        """Return the same clips, read in this form and in another.

        Raises:
            ConfigurationError: One of the two holds several forms already.
        """
        if self.forms != 1 or other.forms != 1:
            raise ConfigurationError("clips that were read in several forms already")
        extra = None
        if self.benign is not None and other.benign is not None:
            extra = _interleave(self.benign, other.benign)
        return MatchedStates(
            harmful=_interleave(self.harmful, other.harmful),
            safe=_interleave(self.safe, other.safe),
            benign=extra,
            forms=2,
        )

    def select(self, rows: list[Tensor]) -> MatchedStates:
        """Return the rows that masks choose, of harmful, safe and benign states."""
        kept = None if self.benign is None else self.benign[rows[2]]
        return MatchedStates(
            harmful=self.harmful[rows[0]],
            safe=self.safe[rows[1]],
            benign=kept if kept is not None and len(kept) else None,
            forms=self.forms,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GateQuality:
    """Out-of-fold scores: what cross-validation over pairs says of a gate."""

    harmful: Tensor
    """Of the harmful clips, shape (N,)."""
    safe: Tensor
    """Of the harmless clips matched to them, shape (N,)."""
    benign: Tensor
    """Of the unmatched harmless clips, shape (M,)."""
    forms: int = 1
    """Input forms in which each clip was read."""

    @property
    def pair_count(self) -> int:
        """Return the number of pairs."""
        return len(self.harmful) // self.forms

    @property
    def benign_count(self) -> int:
        """Return the number of unmatched harmless clips."""
        return len(self.benign) // self.forms

    @property
    def harmless(self) -> Tensor:
        """Return the scores of every harmless clip, shape (N + M,)."""
        return torch.cat([self.safe, self.benign])

    @property
    def auc(self) -> float:
        """Return the chance that a harmful clip outscores a harmless one.

        Over all N x N pairings of `harmful` and `safe`; ties count half.
        """
        # Against matched clips only: sets that differ in style are told apart by it,
        # which raised the area of a probe to 0.98 where matched pairs gave 0.50 to
        # 0.81.
        wins = self.harmful[:, None] > self.safe[None]
        ties = self.harmful[:, None] == self.safe[None]
        return float((wins.double() + 0.5 * ties.double()).mean())

    @property
    def pairwise_accuracy(self) -> float:
        """Return the share of pairs whose harmful clip outscores the matched one."""
        return float((self.harmful > self.safe).double().mean())


def fit_probe(
    matched: MatchedStates, *, shrinkage: float = SHRINKAGE, layers: range | None = None
) -> LinearProbe:
    """Fit a probe to matched states.

    Args:
        matched: States on harmful clips, on matched harmless ones, and on others.
        shrinkage: gamma, above 0 and at most 1.
        layers: Which layers are read, without a gap; the upper half if not given.

    Raises:
        InsufficientDataError: There are fewer than 2 pairs.
        DegenerateDirectionError: The two groups have the same mean in some layer, or
            the states are not finite.
        ConfigurationError: A setting is out of range.
    """
    harmful, safe, benign = matched.harmful, matched.safe, matched.benign
    _check(harmful, safe, shrinkage)
    if layers is None:
        # Low layers tell the two apart worse: on SmolLM2-135M, of 30 layers, a probe's
        # area was 0.73 to 0.88 in layers 3 and 9, 0.96 to 0.99 in layers 15 to 27.
        layers = range(harmful.shape[1] // 2, harmful.shape[1])
    found = []
    for layer in layers:
        extra = None if benign is None else benign[:, layer].double()
        # float64, as the products of states that are solved below square their
        # condition.
        h, s = harmful[:, layer].double(), safe[:, layer].double()
        found.append(_fit_layer(h, s, extra, shrinkage, layer))
    directions, offsets = zip(*found, strict=True)
    return LinearProbe(
        directions=torch.stack(directions).float(),
        offsets=torch.stack(offsets).float(),
        first_layer=layers.start,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CrossFit:
    """Probes that were each fitted without a part of the clips."""

    probes: tuple[LinearProbe, ...]
    """One a fold."""

    def without(self, place: int) -> LinearProbe:
        """Return the probe that was fitted without the pair, or clip, at a place."""
        # By place and not by lot: every run has the same folds, and both clips of a
        # pair, which have one place, are left out together.
        return self.probes[place % len(self.probes)]


def cross_fit(
    matched: MatchedStates, *, shrinkage: float = SHRINKAGE, folds: int = FOLDS
) -> CrossFit:
    """Fit a probe without each part of the pairs and other clips.

    Args:
        matched: As for `fit_probe`.
        shrinkage: As for `fit_probe`.
        folds: Parts that pairs and other clips are split into.

    Raises:
        InsufficientDataError: There are fewer than 3 pairs.
    """
    used = min(folds, len(matched.harmful) // matched.forms)
    return CrossFit(
        probes=tuple(
            fit_probe(
                matched.select([~left for left in _left_out(matched, fold, used)]),
                shrinkage=shrinkage,
            )
            for fold in range(used)
        )
    )


def cross_validate(
    matched: MatchedStates,
    *,
    shrinkage: float = SHRINKAGE,
    folds: int = FOLDS,
    fitted: CrossFit | None = None,
) -> GateQuality:
    """Score every pair with a probe that was fitted without it.

    Args:
        matched: As for `fit_probe`.
        shrinkage: As for `fit_probe`.
        folds: As for `cross_fit`.
        fitted: What `cross_fit` gave for the same clips; fitted here if not given.

    Raises:
        InsufficientDataError: There are fewer than 3 pairs.
    """
    fitted = fitted or cross_fit(matched, shrinkage=shrinkage, folds=folds)
    groups = _groups(matched)
    scores = [torch.zeros(group.shape[0]) for group in groups]
    for fold, probe in enumerate(fitted.probes):
        out = _left_out(matched, fold, len(fitted.probes))
        for row, group, left in zip(scores, groups, out, strict=True):
            row[left] = probe.score(group[left].transpose(0, 1))
    return GateQuality(
        harmful=scores[0], safe=scores[1], benign=scores[2], forms=matched.forms
    )


def _groups(matched: MatchedStates) -> tuple[Tensor, Tensor, Tensor]:
    extra = matched.harmful[:0] if matched.benign is None else matched.benign
    return matched.harmful, matched.safe, extra


def _left_out(matched: MatchedStates, fold: int, folds: int) -> list[Tensor]:
    """Return which rows of each group a fold leaves out.

    A clip is left out in all its forms: they are too alike to be held against each
    other.
    """
    return [
        torch.arange(len(group)) // matched.forms % folds == fold
        for group in _groups(matched)
    ]


def _interleave(ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.stack([ours, theirs], dim=1).flatten(0, 1)


def _fit_layer(
    harmful: Tensor, safe: Tensor, benign: Tensor | None, shrinkage: float, layer: int
) -> tuple[Tensor, Tensor]:
    harmless = safe if benign is None else torch.cat([safe, benign])
    difference = harmful - safe
    shift = harmful.mean(0) - harmless.mean(0)
    rows = torch.cat([_centred(harmful), _centred(harmless), _centred(difference)])
    weights = _solve(rows, shift, shrinkage)
    # Half the distance of the groups' mean scores, which it scales to +1 and -1.
    spread = weights @ shift / 2
    if not bool(torch.isfinite(spread)) or not bool(spread > 0):
        raise DegenerateDirectionError(
            f"harmful and harmless states of layer {layer} do not differ: check that "
            "the pairs are not copies of each other"
        )
    middle = weights @ (harmful.mean(0) + harmless.mean(0)) / 2
    return weights / spread, middle / spread


def _centred(states: Tensor) -> Tensor:
    return states - states.mean(0)


def _solve(rows: Tensor, shift: Tensor, shrinkage: float) -> Tensor:
    """Return ((1 - gamma) X^T X / M + gamma t I)^-1 m.

    Through the D x D matrix or, by the Woodbury identity, the M x M Gram matrix of the
    rows, whichever is smaller: a model's D is thousands, and pairs are hundreds.
    """
    count, width = rows.shape
    # The trace of X^T X is the sum of all squares, so t needs no D x D matrix.
    target = shrinkage * rows.square().sum() / (count * width)
    weight = (1 - shrinkage) / count
    if width <= count:
        spread = rows.T @ rows * weight
        spread.diagonal().add_(target)
        direct: Tensor = torch.linalg.solve(spread, shift)
        return direct
    gram = rows @ rows.T * weight
    gram.diagonal().add_(target)
    inner = torch.linalg.solve(gram, rows @ shift)
    solved: Tensor = (shift - weight * (rows.T @ inner)) / target
    return solved


def _check(harmful: Tensor, safe: Tensor, shrinkage: float) -> None:
    if harmful.shape != safe.shape or harmful.dim() != 3:
        raise ConfigurationError(
            f"states of shape {tuple(harmful.shape)} and {tuple(safe.shape)}: a gate "
            "is fitted to matched states of shape (N, L, D)"
        )
    if harmful.shape[0] < 2:
        raise InsufficientDataError(
            f"{harmful.shape[0]} pair(s) to fit a gate: give at least 2, and 3 to "
            "judge it"
        )
    # At 0 there is no inverse where the rows are fewer than the columns.
    if not 0 < shrinkage <= 1:
        raise ConfigurationError(
            f"shrinkage is {shrinkage}: it has to be above 0 and at most 1"
        )
