"""Stage 2, lookup: the encoder's last layer emits exact embeddings.

It is computed from stage 1's encoder before it is trained itself. With `s_v` the score
of token `v` and `s_0` that of the blank, a hidden unit computes `s_v - s_0` and passes
on what is above zero; the second matrix turns it into `e_v - e_space`. Several active
units are weighted by their confidence, the layer norm after them keeps the direction,
and the projector restores the length: a frame is the embedding of its token, or of a
space where nothing is said, the filler that disturbs a text model least.

The 384 dimensions in between hold the principal directions of the embeddings, weighted
by frequency, one direction for silence, and none for the mean.

The layer is trained through its units, by CTC over them, and through what the text
model gets of them, by the distance of each frame to the one embedding that the
alignment of that loss puts there. A frame between two units is the mean of their
embeddings, which reads as a third word: the distance teaches the units to be alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from sarguard.reference.lookup import append_lookup
from sarguard.reference.training.hearing import SampledClasses, SpeechEncoder, pooled

GAIN = 300.0
"""Scale of the layer's output to a unit's value: it has to dominate the residual
state that it is added to."""
SILENCE_LENGTH = 2.0
"""Length of the output where no unit is active, on the same scale."""
THRESHOLD = 1.0
"""Nats by which a token must beat silence before its unit is active, initially."""
NEGATIVES = 2000
"""Number of sampled tokens in the loss besides the batch's own."""
SPEECH_WEIGHT = 4.0
"""Weight of a frame that says a token, relative to a silent one."""

_UNITS = "units."
_ALONE = ("threshold", "own")


@dataclass(frozen=True, slots=True)
class LookupOutput:
    """Frames of a batch, and their distance from what was said."""

    frames: Tensor
    """Projected frames of the rows that were looked up, (rows, n, width)."""
    counts: Tensor
    """How many frames of each row of the batch are real, (batch,)."""
    ctc: Tensor
    """Mean CTC loss a token by the units' own scores, in nats."""
    gap: Tensor
    """Mean squared distance of the frames to their tokens' embeddings, relative."""


class LookupUnits(nn.Module):
    """Hidden units of the layer: stage 1's scores, and what each unit adds to its own.

    The scores come from parameters that all units share, so that a rare token's unit
    is where its embedding says. How a token sounds is in no embedding: units that have
    nothing of their own confuse words that plain Whisper tells apart.
    """

    def __init__(self, encoder: SpeechEncoder, tokens: Tensor) -> None:
        super().__init__()
        self.register_buffer("tokens", tokens, persistent=False)
        self.weight = nn.Parameter(encoder.projector.weight.detach().clone())
        self.bias = nn.Parameter(encoder.projector.bias.detach().clone())
        self.blank = nn.Parameter(encoder.blank.detach().clone())
        self.log_tau = nn.Parameter(encoder.log_tau.detach().clone())
        start = torch.full((len(tokens),), THRESHOLD, device=tokens.device)
        self.threshold = nn.Parameter(start)
        own = torch.zeros(len(tokens), self.weight.shape[1], device=tokens.device)
        self.own = nn.Parameter(own)

    def linear(self) -> tuple[Tensor, Tensor]:
        """Return the layer's first matrix, (tokens, width), and its bias."""
        temperature = self.log_tau.exp()
        tokens: Any = self.tokens
        beyond = 2 * (tokens - self.blank) / temperature
        squares = (tokens * tokens).sum(1) - (self.blank * self.blank).sum()
        bias = beyond @ self.bias - squares / temperature - self.threshold
        return beyond @ self.weight + self.own, bias


class LookupEncoder(SpeechEncoder):
    """The audio tower with its lookup layer; class 0 of its scores is the space.

    As a `SpeechEncoder` it scores frames by their distance to the embeddings.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Sequence[int],
        units: LookupUnits,
        *,
        space: int,
    ) -> None:
        super().__init__(model, vocabulary)
        embeddings: Any = model.get_input_embeddings()
        with torch.no_grad():
            self.blank.copy_(embeddings.weight[space])
        self.requires_grad_(False)
        self.layer: Any = self.tower.layers[-1]
        self.units = units
        self.vocabulary = tuple(vocabulary)
        for parameter in chain(*self.parameter_groups()):
            parameter.requires_grad_(True)
        self.sync_model()

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """Return what is trained: the tower, what units share, and what each has."""
        tower = [p for layer in self.tower.layers[:-1] for p in layer.parameters()]
        shared = [*self.layer.final_layer_norm.parameters()]
        alone = [getattr(self.units, name) for name in _ALONE]
        shared += [p for n, p in self.units.named_parameters() if n not in _ALONE]
        return [tower, shared, alone]

    @torch.no_grad()
    def sync_model(self) -> None:
        """Copy the units into the layer that the model itself runs."""
        weight, bias = self.units.linear()
        self.layer.fc1.weight.copy_(weight)
        self.layer.fc1.bias.copy_(bias)

    def save_head(self, path: Path, vocabulary: Sequence[int]) -> None:
        """Write what `SpeechEncoder.save_head` does, and the units."""
        super().save_head(path, vocabulary)
        units = {f"{_UNITS}{k}": v.cpu() for k, v in self.units.state_dict().items()}
        units[f"{_UNITS}own"] = units[f"{_UNITS}own"].half()
        save_file({**load_file(path), **units}, path)

    def load_head(self, path: Path) -> None:
        """Take back what `save_head` wrote."""
        super().load_head(path)
        found = load_file(path)
        self.units.load_state_dict(
            {
                name.removeprefix(_UNITS): value
                for name, value in found.items()
                if name.startswith(_UNITS)
            }
        )
        self.sync_model()

    @torch.no_grad()
    def take_units(self, path: Path) -> None:
        """Take over what another vocabulary's units learnt, which `save_head` wrote."""
        found = load_file(path)
        for name in ("weight", "bias", "blank", "log_tau"):
            getattr(self.units, name).copy_(found[_UNITS + name])
        rows = {token: row for row, token in enumerate(found["vocabulary"].tolist())}
        # The first edition's units had a threshold, and nothing else of their own.
        alone = [name for name in _ALONE if _UNITS + name in found]
        for place, token in enumerate(self.vocabulary):
            if token in rows:
                for name in alone:
                    learnt = found[_UNITS + name][rows[token]]
                    getattr(self.units, name)[place] = learnt
        self.sync_model()

    def training_output(
        self,
        features: Tensor,
        lengths: Tensor,
        said: Sequence[Tensor],
        *,
        rows: Tensor | None = None,
    ) -> LookupOutput:
        """Return the frames and the losses of a batch.

        Args:
            features: Log-mel features, (batch, mels, steps).
            lengths: Steps of each that are real, (batch,).
            said: What each says, as classes from 1.
            rows: Rows that are looked up, the expensive part; all if not given.
        """
        sounds, counts = self.states(features, lengths, self.tower.layers[:-1])
        units = self.layer.final_layer_norm(sounds.float())
        weight, bias = self.units.linear()
        ctc, posterior = self._align(pooled(units), (weight, bias), counts, said)
        chosen = torch.arange(len(counts)) if rows is None else rows
        active = F.gelu(F.linear(units[chosen], weight, bias))
        frames = self.project(sounds[chosen].float() + self.layer.fc2(active))
        gap = self._embedding_gap(frames, posterior, chosen, counts)
        return LookupOutput(frames, counts, ctc, gap)

    def _align(
        self,
        units: Tensor,
        linear: tuple[Tensor, Tensor],
        counts: Tensor,
        said: Sequence[Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the CTC loss, and the posterior of each token at each frame."""
        classes = SampledClasses.draw(
            said,
            vocabulary=len(self.targets),
            negatives=NEGATIVES,
            device=units.device,
        )
        weight, bias = (part[classes.tokens] for part in linear)
        scores = F.pad(F.linear(units, weight, bias).float(), (1, 0))
        loss, posterior = align(
            classes.log_probabilities(scores), classes.spoken, counts, classes.lengths
        )
        own = classes.own
        posterior = posterior.transpose(0, 1)[..., : 1 + len(own)]
        return loss / classes.lengths.sum(), (posterior, own)

    def _embedding_gap(
        self,
        frames: Tensor,
        posterior: tuple[Tensor, Tensor],
        rows: Tensor,
        counts: Tensor,
    ) -> Tensor:
        probabilities, own = posterior[0][rows], posterior[1]
        # One embedding a frame, not their mean: that would be no token's.
        likeliest = probabilities.argmax(-1)
        wanted = torch.cat([self.blank[None], self.targets[own]])[likeliest]
        steps = torch.arange(frames.shape[1], device=frames.device)
        real = steps[None] < counts[rows, None].to(frames.device)
        # Clips too short for their words have no alignment.
        aligned = probabilities.sum(-1) > 0.5
        weight = (real & aligned) * (1 + (SPEECH_WEIGHT - 1) * (likeliest > 0))
        size = self.targets.pow(2).sum(-1).mean()
        squared = (frames.float() - wanted).pow(2).sum(-1) / size
        return (squared * weight).sum() / weight.sum().clamp(min=1)


def align(
    log_probs: Tensor, targets: Tensor, counts: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the CTC loss of a batch, and the posterior of its alignment.

    Args:
        log_probs: Log-probabilities, (n, batch, classes); class 0 is the blank.
        targets: The classes that are said, those of one row after the other's.
        counts: How many of the n are real, (batch,).
        lengths: How many classes each row says, (batch,).

    Returns:
        The loss summed over the rows, in nats, and the probability of each class at
        each step given that the row says its targets, (n, batch, classes).
    """
    loss = F.ctc_loss(
        log_probs, targets, counts, lengths, reduction="sum", zero_infinity=True
    )
    # torch's CTC gradient is that of the scores before the softmax: probability minus
    # posterior. It gives the alignment without a forward-backward pass of our own.
    (excess,) = torch.autograd.grad(loss, log_probs, retain_graph=True)
    return loss, (log_probs.detach().exp() - excess).clamp(0, 1)


@torch.no_grad()
def build_lookup(
    model: PreTrainedModel,
    encoder: SpeechEncoder,
    said: Mapping[int, float],
    *,
    space: int,
) -> LookupEncoder:
    """Append the lookup layer to a model that stage 1 taught to hear.

    Args:
        model: The model whose tower `hearing` trained; changed in place.
        hearing: Stage 1.
        said: The tokens that get a unit, each with how often it is said, which weighs
            what the dimensions hold.
        space: Token id of a space.
    """
    parts: Any = model
    embeddings: Tensor = parts.get_input_embeddings().weight.detach()
    vocabulary = sorted(said)
    tokens = embeddings[vocabulary]
    units = LookupUnits(encoder, tokens)
    append_lookup(model, len(tokens))
    tower, projector = encoder.tower, encoder.projector
    layer = tower.layers[-1]
    layer.final_layer_norm.load_state_dict(tower.layer_norm.state_dict())
    apart = tokens - embeddings[space]
    often = torch.tensor([said[token] for token in vocabulary], device=apart.device)
    weights = often.float().clamp(min=1).pow(0.25)
    holds, silence = _directions(tower.layer_norm.weight.shape[0], apart, weights)
    layer.fc2.weight.copy_(GAIN * (holds @ apart.T))
    layer.fc2.bias.copy_(GAIN * SILENCE_LENGTH * silence)
    tower.layer_norm.weight.fill_(1.0)
    tower.layer_norm.bias.zero_()
    length = (apart @ holds.T).norm(dim=1).mean()
    projector.weight.copy_(length / math.sqrt(len(silence)) * holds.T)
    projector.bias.copy_(embeddings[space])
    return LookupEncoder(model, vocabulary, units, space=space)


def _directions(width: int, apart: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return what embeds embeddings in the encoder, and the direction of silence.

    Returns:
        A matrix (width, text width) whose range is orthogonal to the silence and to
        the mean, which a layer norm takes away, and the silence, (width,).
    """
    _, _, principal = torch.linalg.svd(weights[:, None] * apart, full_matrices=False)
    kept = principal[: width - 2]
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    noise[:, 0] = 1
    basis, _ = torch.linalg.qr(noise)
    basis = basis.to(apart.device)
    return basis[:, 2 : 2 + len(kept)] @ kept, basis[:, 1]
