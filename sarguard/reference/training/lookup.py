"""Stage 2, looking up: the encoder's last layer says exact embeddings.

Built from stage 1's hearing, before any training of its own. With `s_v` the score of
token `v` and `s_0` that of the blank, a hidden unit holds `s_v - s_0` and passes on
what is above zero; the second matrix turns it into `e_v - e_space`. What several units
say is weighed by how sure they are, the layer norm after it keeps the direction, and
the projector puts it back to its length: a frame is the embedding of its token, or of
a space where nothing is said, which is the filler that a text model reads over best.

The 384 dimensions between the two hold the principal directions of the embeddings,
weighed by how often each is said, a direction for silence, and none for the mean.

It is trained through its units: connectionist temporal classification over them, and
the distance of each frame to what the alignment of that loss says should stand there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from sarguard.reference.lookup import append_lookup
from sarguard.reference.training.hearing import Contest, Hearing, pooled

LOUDNESS = 300.0
"""How much longer what the layer says is than what a unit holds: it has to drown the
state that it is added to."""
SILENCE = 2.0
"""Length of what is said where no unit speaks, in the same measure."""
THRESHOLD = 1.0
"""How many nats likelier than silence a token is before its unit speaks, at first."""
RIVALS = 2000
"""How many tokens compete with those of the batch."""
SAYING_WEIGHT = 4.0
"""How much more a frame that says a token counts than one that is silent."""

_UNITS = "units."


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard in a batch, and how far it was from what was said."""

    frames: Tensor
    """Projected frames of the rows that were looked up, (rows, n, width)."""
    counts: Tensor
    """How many frames of each row of the batch are real, (batch,)."""
    ctc: Tensor
    """Mean CTC loss a token, in nats."""
    gap: Tensor
    """Mean squared distance of the frames to their tokens' embeddings, relative."""


class Units(nn.Module):
    """What each hidden unit holds: stage 1's scores, from matrices that all share.

    Trained one by one, the units of tokens that are seldom said would drift.
    """

    def __init__(self, hearing: Hearing, tokens: Tensor) -> None:
        super().__init__()
        self.register_buffer("tokens", tokens, persistent=False)
        self.weight = nn.Parameter(hearing.projector.weight.detach().clone())
        self.bias = nn.Parameter(hearing.projector.bias.detach().clone())
        self.blank = nn.Parameter(hearing.blank.detach().clone())
        self.log_tau = nn.Parameter(hearing.log_tau.detach().clone())
        start = torch.full((len(tokens),), THRESHOLD, device=tokens.device)
        self.threshold = nn.Parameter(start)

    def linear(self) -> tuple[Tensor, Tensor]:
        """Return the layer's first matrix, (tokens, width), and its bias."""
        temperature = self.log_tau.exp()
        tokens: Any = self.tokens
        beyond = 2 * (tokens - self.blank) / temperature
        squares = (tokens * tokens).sum(1) - (self.blank * self.blank).sum()
        bias = beyond @ self.bias - squares / temperature - self.threshold
        return beyond @ self.weight, bias


class Lookup(Hearing):
    """The audio tower with its lookup layer; class 0 of its scores is the space.

    As a `Hearing` it scores frames by their distance to the embeddings themselves.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Sequence[int],
        units: Units,
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
        for parameter in (*self.body(), *self.shared(), *self.single()):
            parameter.requires_grad_(True)
        self.settle()

    def body(self) -> Iterator[nn.Parameter]:
        """Yield what hears: the parameters of every layer before the lookup."""
        for layer in self.tower.layers[:-1]:
            yield from layer.parameters()

    def shared(self) -> Iterator[nn.Parameter]:
        """Yield what tells the tokens apart and is the same for all of them."""
        yield from self.layer.final_layer_norm.parameters()
        for name, parameter in self.units.named_parameters():
            if name != "threshold":
                yield parameter

    def single(self) -> Iterator[nn.Parameter]:
        """Yield what each unit has for itself."""
        yield self.units.threshold

    @torch.no_grad()
    def settle(self) -> None:
        """Write the units into the layer that the model itself runs."""
        weight, bias = self.units.linear()
        self.layer.fc1.weight.copy_(weight)
        self.layer.fc1.bias.copy_(bias)

    def save_head(self, path: Path, vocabulary: Sequence[int]) -> None:
        """Write what `Hearing.save_head` does, and the units."""
        super().save_head(path, vocabulary)
        units = {f"{_UNITS}{k}": v.cpu() for k, v in self.units.state_dict().items()}
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
        self.settle()

    def listen(
        self,
        features: Tensor,
        lengths: Tensor,
        said: Sequence[Tensor],
        *,
        rows: Tensor | None = None,
    ) -> Heard:
        """Hear a batch for training.

        Args:
            features: Log-mel features, (batch, mels, steps).
            lengths: Steps of each that are real, (batch,).
            said: What each says, as classes from 1.
            rows: Which rows are looked up, the costly part; all if not given.
        """
        sounds, counts = self.states(features, lengths, self.tower.layers[:-1])
        units = self.layer.final_layer_norm(sounds.float())
        weight, bias = self.units.linear()
        ctc, due = self._align(pooled(units), (weight, bias), counts, said)
        chosen = torch.arange(len(counts)) if rows is None else rows
        told = F.gelu(F.linear(units[chosen], weight, bias))
        frames = self.project(sounds[chosen].float() + self.layer.fc2(told))
        gap = self._gap(frames, due, chosen, counts)
        return Heard(frames, counts, ctc, gap)

    def _align(
        self,
        units: Tensor,
        linear: tuple[Tensor, Tensor],
        counts: Tensor,
        said: Sequence[Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the CTC loss, and how likely each frame is due to say which token."""
        contest = Contest.draw(
            said,
            vocabulary=len(self.targets),
            rivals=RIVALS,
            device=units.device,
        )
        weight, bias = (part[contest.tokens] for part in linear)
        scores = F.pad(F.linear(units, weight, bias).float(), (1, 0))
        loss, due = align(
            contest.shares(scores), contest.spoken, counts, contest.lengths
        )
        own = contest.own
        due = due.transpose(0, 1)[..., : 1 + len(own)]
        return loss / contest.lengths.sum(), (due, own)

    def _gap(
        self, frames: Tensor, due: tuple[Tensor, Tensor], rows: Tensor, counts: Tensor
    ) -> Tensor:
        shares, own = due[0][rows], due[1]
        wanted = shares @ torch.cat([self.blank[None], self.targets[own]])
        steps = torch.arange(frames.shape[1], device=frames.device)
        real = steps[None] < counts[rows, None].to(frames.device)
        # Clips too short for their words have no alignment.
        aligned = shares.sum(-1) > 0.5
        saying = shares[..., 1:].sum(-1)
        weight = (real & aligned) * (1 + (SAYING_WEIGHT - 1) * saying)
        size = self.targets.pow(2).sum(-1).mean()
        far = (frames.float() - wanted).pow(2).sum(-1) / size
        return (far * weight).sum() / weight.sum().clamp(min=1)


def align(
    shares: Tensor, targets: Tensor, counts: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the CTC loss of a batch, and the share that each class is due.

    Args:
        shares: Log-probabilities, (n, batch, classes); class 0 is the blank.
        targets: The classes that are said, those of one row after the other's.
        counts: How many of the n are real, (batch,).
        lengths: How many classes each row says, (batch,).

    Returns:
        The sum over the rows, in nats, and how likely each place says each class, given
        that the row says its targets, (n, batch, classes).
    """
    loss = F.ctc_loss(
        shares, targets, counts, lengths, reduction="sum", zero_infinity=True
    )
    # This loss gives the gradient for scores: the share that is there less that due.
    (less,) = torch.autograd.grad(loss, shares, retain_graph=True)
    return loss, (shares.detach().exp() - less).clamp(0, 1)


@torch.no_grad()
def build_lookup(
    model: PreTrainedModel, hearing: Hearing, said: Mapping[int, float], *, space: int
) -> Lookup:
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
    units = Units(hearing, tokens)
    append_lookup(model, len(tokens))
    tower, projector = hearing.tower, hearing.projector
    layer = tower.layers[-1]
    layer.final_layer_norm.load_state_dict(tower.layer_norm.state_dict())
    apart = tokens - embeddings[space]
    often = torch.tensor([said[token] for token in vocabulary], device=apart.device)
    weights = often.float().clamp(min=1).pow(0.25)
    holds, silence = _directions(tower.layer_norm.weight.shape[0], apart, weights)
    layer.fc2.weight.copy_(LOUDNESS * (holds @ apart.T))
    layer.fc2.bias.copy_(LOUDNESS * SILENCE * silence)
    tower.layer_norm.weight.fill_(1.0)
    tower.layer_norm.bias.zero_()
    length = (apart @ holds.T).norm(dim=1).mean()
    projector.weight.copy_(length / math.sqrt(len(silence)) * holds.T)
    projector.bias.copy_(embeddings[space])
    return Lookup(model, vocabulary, units, space=space)


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
