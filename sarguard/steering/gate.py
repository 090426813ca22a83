"""The gate: how much a request's own state looks like a harmful one's.

Linear discriminant analysis with shrinkage, one direction a layer, on the states that
calibration reads anyway. With H and S (N, D) the last-token states of one layer on
harmful clips and on their harmless twins,

    m = mean(H) - mean(S)
    C = (1 - gamma) X^T X / M + gamma t I,   X the centred rows of H, of S and of H - S
    w = C^-1 m                               t the mean variance of X's columns

A state h scores (w.h - c) / s, where c lies halfway between the two groups' means and
s makes them +1 and -1. The gate's score is the mean over the upper half of the layers:
0 is undecided, 1 a typical harmful request, -1 a typical harmless one.

Each clip may be read in several ways (with an instruction, alone): the rows then hold
all readings, and what the way adds counts as spread, so that w hardly looks at it.

The differences H - S of the pairs are rows of X so that what twins share (topic, voice)
is not mistaken for harm. The shrinkage estimate is that of Friedman, "Regularized
Discriminant Analysis", 1989, with the identity as target.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sarguard.errors import (
    ArtifactFormatError,
    ConfigurationError,
    DegenerateDirectionError,
    InsufficientDataError,
)

SHRINKAGE = 0.5
FOLDS = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """Score last-token states; all tensors are float32 on the CPU."""

    directions: Tensor
    """w / s of each layer that is read, shape (n, D)."""
    offsets: Tensor
    """c / s of each layer that is read, shape (n,)."""
    first_layer: int
    """The layers read are this one and the n - 1 after it."""

    def __post_init__(self) -> None:
        read = self.directions.shape[0]
        if self.directions.dim() != 2 or tuple(self.offsets.shape) != (read,):
            raise ArtifactFormatError(
                f"a gate has directions {tuple(self.directions.shape)} and offsets "
                f"{tuple(self.offsets.shape)}: they have to be (n, D) and (n,)"
            )
        for name in ("directions", "offsets"):
            found: Tensor = getattr(self, name)
            if found.dtype != torch.float32 or not bool(torch.isfinite(found).all()):
                raise ArtifactFormatError(f"{name} of a gate has to be finite float32")

    def score(self, states: Tensor) -> Tensor:
        """Return each row's score: 1 typically harmful, -1 typically harmless.

        Args:
            states: Clean last-token states of every layer, shape (L, rows, D).

        Returns:
            Float32, shape (rows,), on the states' device.

        Raises:
            ConfigurationError: The states are those of another model.
        """
        read, width = self.directions.shape
        last = self.first_layer + read
        if states.dim() != 3 or states.shape[0] < last or states.shape[2] != width:
            raise ConfigurationError(
                f"states of shape {tuple(states.shape)} for a gate that reads layers "
                f"{self.first_layer} to {last - 1} of width {width}"
            )
        chosen = states[self.first_layer : last].float()
        directions = self.directions.to(states.device)
        found = torch.einsum("lrd,ld->lr", chosen, directions)
        return (found - self.offsets.to(states.device)[:, None]).mean(dim=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matched:
    """Hold the states that a gate is fitted to, float32."""

    harmful: Tensor
    """On harmful clips, shape (N, L, D)."""
    safe: Tensor
    """On their harmless twins, in the same order, shape (N, L, D)."""
    benign: Tensor | None = None
    """On more harmless clips, without a twin, shape (M, L, D)."""
    readings: int = 1
    """In how many ways each clip was read; those of one clip follow each other."""

    def beside(self, other: Matched) -> Matched:
        """Return the same clips read in one way more."""
        if self.readings != 1 or other.readings != 1:
            raise ConfigurationError("clips that were read in several ways already")
        extra = None
        if self.benign is not None and other.benign is not None:
            extra = _in_turn(self.benign, other.benign)
        return Matched(
            harmful=_in_turn(self.harmful, other.harmful),
            safe=_in_turn(self.safe, other.safe),
            benign=extra,
            readings=2,
        )

    def only(self, rows: list[Tensor]) -> Matched:
        """Return the rows that masks choose, of harmful, safe and benign states."""
        kept = None if self.benign is None else self.benign[rows[2]]
        return Matched(
            harmful=self.harmful[rows[0]],
            safe=self.safe[rows[1]],
            benign=kept if kept is not None and len(kept) else None,
            readings=self.readings,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GateQuality:
    """Hold what cross-validation over pairs says of a gate."""

    harmful: Tensor
    """Out-of-fold scores of the harmful clips, shape (N,)."""
    safe: Tensor
    """Out-of-fold scores of their twins, shape (N,)."""
    benign: Tensor
    """Out-of-fold scores of the harmless clips without a twin, shape (M,)."""
    readings: int = 1
    """In how many ways each clip was read."""

    @property
    def pairs(self) -> int:
        """Return the number of pairs."""
        return len(self.harmful) // self.readings

    @property
    def extra(self) -> int:
        """Return the number of harmless clips without a twin."""
        return len(self.benign) // self.readings

    @property
    def harmless(self) -> Tensor:
        """Return the out-of-fold scores of every harmless clip, shape (N + M,)."""
        return torch.cat([self.safe, self.benign])

    @property
    def auc(self) -> float:
        """Return the chance that a harmful clip outscores a harmless one."""
        wins = self.harmful[:, None] > self.safe[None]
        ties = self.harmful[:, None] == self.safe[None]
        return float((wins.double() + 0.5 * ties.double()).mean())

    @property
    def twins_told_apart(self) -> float:
        """Return the share of pairs whose harmful clip outscores its own twin."""
        return float((self.harmful > self.safe).double().mean())


def fit_gate(
    matched: Matched, *, shrinkage: float = SHRINKAGE, layers: range | None = None
) -> Gate:
    """Fit a gate to matched states.

    Args:
        matched: States on harmful clips, on their harmless twins, and on others.
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
        layers = range(harmful.shape[1] // 2, harmful.shape[1])
    found = []
    for layer in layers:
        extra = None if benign is None else benign[:, layer].double()
        h, s = harmful[:, layer].double(), safe[:, layer].double()
        found.append(_fit_layer(h, s, extra, shrinkage, layer))
    directions, offsets = zip(*found, strict=True)
    return Gate(
        directions=torch.stack(directions).float(),
        offsets=torch.stack(offsets).float(),
        first_layer=layers.start,
    )


def cross_validate(
    matched: Matched, *, shrinkage: float = SHRINKAGE, folds: int = FOLDS
) -> GateQuality:
    """Score every pair with a gate that was fitted without it.

    Args:
        matched: As for `fit_gate`.
        shrinkage: As for `fit_gate`.
        folds: Into how many parts pairs and other clips are dealt.

    Raises:
        InsufficientDataError: There are fewer than 3 pairs.
    """
    harmful, ways = matched.harmful, matched.readings
    extra = harmful[:0] if matched.benign is None else matched.benign
    dealt = min(folds, len(harmful) // ways)
    groups = (harmful, matched.safe, extra)
    scores = [torch.zeros(group.shape[0]) for group in groups]
    for fold in range(dealt):
        # All readings of a clip are left out together.
        out = [torch.arange(len(row)) // ways % dealt == fold for row in scores]
        gate = fit_gate(matched.only([~left for left in out]), shrinkage=shrinkage)
        for row, group, left in zip(scores, groups, out, strict=True):
            row[left] = gate.score(group[left].transpose(0, 1))
    return GateQuality(
        harmful=scores[0], safe=scores[1], benign=scores[2], readings=ways
    )


def _in_turn(ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.stack([ours, theirs], dim=1).flatten(0, 1)


def _fit_layer(
    harmful: Tensor, safe: Tensor, benign: Tensor | None, shrinkage: float, layer: int
) -> tuple[Tensor, Tensor]:
    harmless = safe if benign is None else torch.cat([safe, benign])
    difference = harmful - safe
    shift = harmful.mean(0) - harmless.mean(0)
    rows = torch.cat([_centred(harmful), _centred(harmless), _centred(difference)])
    weights = _solve(rows, shift, shrinkage)
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

    Of the two equal ways, the D x D matrix or the M x M Gram matrix, the smaller one.
    """
    count, width = rows.shape
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
    if not 0 < shrinkage <= 1:
        raise ConfigurationError(
            f"shrinkage is {shrinkage}: it has to be above 0 and at most 1"
        )
