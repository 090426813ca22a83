"""Stage 1, hearing: the audio tower learns to emit the text model's embeddings.

Connectionist temporal classification (CTC) over the text model's own token embeddings:
a projected frame ``p`` scores token ``v`` by minus its squared distance to that token's
embedding, ``(2 p.e_v - |e_v|^2) / tau``. The projector then emits roughly the embedding
of the token that was said, which an unmodified text model partly understands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class SampledClasses:
    """Classes of a batch's CTC loss: blank (0), its own tokens, and sampled others."""

    own: Tensor
    """Tokens that the batch says, as indices into the vocabulary."""
    negatives: Tensor
    """Tokens that it does not say, drawn at random, as indices."""
    unsaid: int
    """Number of tokens that the negatives were drawn from."""
    spoken: Tensor
    """What is said, as classes, one row after the other."""
    lengths: Tensor
    """Number of classes that each row says, (batch,)."""

    @classmethod
    def draw(
        cls,
        said: Sequence[Tensor],
        *,
        vocabulary: int,
        negatives: int,
        device: torch.device,
    ) -> SampledClasses:
        """Return the classes of a batch.

        Args:
            said: What each row says, as indices into the vocabulary counted from 1.
            vocabulary: Number of tokens.
            negatives: Number of tokens to draw of those that are not said.
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
            negatives=pool[torch.randperm(len(pool), device=device)[:negatives]],
            unsaid=len(pool),
            spoken=place[spoken],
            lengths=torch.tensor([len(tokens) for tokens in said], device=device),
        )

    @property
    def tokens(self) -> Tensor:
        """Return the tokens of classes 1 and up, as indices into the vocabulary."""
        return torch.cat([self.own, self.negatives])

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """Return log-probabilities, (n, batch, classes), of scores (batch, n, classes).

        The scores of the negatives are raised, in place, by the log of how many tokens
        each was drawn for: an estimate of the sum over the whole vocabulary.
        """
        weight = max(1.0, self.unsaid / max(1, len(self.negatives)))
        scores[..., 1 + len(self.own) :] += math.log(weight)
        return F.log_softmax(scores, dim=-1).transpose(0, 1)


NEGATIVES = 3000
"""Number of sampled tokens in the loss besides the batch's own."""


class SpeechEncoder(nn.Module):
    """The audio tower and projector of a Qwen2-Audio model, with a CTC head."""

    targets: Tensor
    """(vocabulary, width) embeddings of the tokens that the head knows."""

    def __init__(self, model: PreTrainedModel, vocabulary: Sequence[int]) -> None:
        super().__init__()
        parts: Any = model
        embeddings: Tensor = parts.get_input_embeddings().weight.detach()
        self.tower: Any = parts.model.audio_tower
        self.projector: nn.Linear = parts.model.multi_modal_projector.linear
        self.blank = nn.Parameter(embeddings.mean(0))
        spread = float(embeddings.norm(dim=1).mean()) ** 2
        self.log_tau = nn.Parameter(torch.tensor(math.log(0.05 * spread)))
        self.register_buffer("targets", embeddings[list(vocabulary)], persistent=False)

    def save_head(self, path: Path, vocabulary: Sequence[int]) -> None:
        """Write the blank, the temperature and the classes of the CTC head."""
        save_file(
            {
                "blank": self.blank.detach().cpu(),
                "log_tau": self.log_tau.detach().cpu(),
                "vocabulary": torch.tensor(vocabulary, dtype=torch.int32),
            },
            path,
        )

    @classmethod
    def from_head(
        cls, model: PreTrainedModel, path: Path
    ) -> tuple[SpeechEncoder, tuple[int, ...]]:
        """Return a trained model's hearing, and the token ids of its classes."""
        head = load_file(path)
        vocabulary = tuple(int(token) for token in head["vocabulary"])
        encoder = cls(model, vocabulary)
        encoder.load_head(path)
        return encoder.eval(), vocabulary

    def load_head(self, path: Path) -> None:
        """Take the blank and the temperature from what `save_head` wrote."""
        head = load_file(path)
        with torch.no_grad():
            self.blank.copy_(head["blank"])
            self.log_tau.copy_(head["log_tau"])

    def sync_model(self) -> None:
        """Copy trained weights into the model, where they are not trained in place."""

    def encode(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return projected frames (batch, n, width) and how many are real (batch,).

        The result is that of the model's own forward on a clip padded to 30 s.
        """
        states, counts = self.states(features, lengths, self.tower.layers)
        return self.project(states), counts

    def states(
        self, features: Tensor, lengths: Tensor, layers: Sequence[nn.Module]
    ) -> tuple[Tensor, Tensor]:
        """Return the states after some layers, (batch, 2 n, width), and each n."""
        tower = self.tower
        hidden = F.gelu(tower.conv1(features))
        hidden = F.gelu(tower.conv2(hidden)).transpose(1, 2)
        steps = hidden.shape[1]
        hidden = hidden + tower.embed_positions.weight[:steps]
        heard = (lengths.to(features.device) - 1) // 2 + 1
        blocked = torch.arange(steps, device=features.device)[None] >= heard[:, None]
        bias = torch.zeros_like(blocked, dtype=hidden.dtype).masked_fill(blocked, -1e4)
        bias = bias[:, None, None].expand(-1, 1, steps, -1)
        for layer in layers:
            output = layer(hidden, bias)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden, (heard - 2) // 2 + 1

    def project(self, states: Tensor) -> Tensor:
        """Return the last layer's states as the text model gets them, (batch, n, ...).

        Two states make a frame.
        """
        frames: Tensor = self.projector(self.tower.layer_norm(pooled(states)))
        return frames

    def scores(self, frames: Tensor) -> Tensor:
        """Return log-probabilities (batch, n, 1 + vocabulary); class 0 is the blank."""
        return F.log_softmax(self._distances(frames, self.targets), dim=-1)

    def loss(self, frames: Tensor, counts: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Return the mean CTC loss a token, in nats, over sampled classes."""
        classes = SampledClasses.draw(
            targets,
            vocabulary=len(self.targets),
            negatives=NEGATIVES,
            device=frames.device,
        )
        scores = self._distances(frames, self.targets[classes.tokens])
        return F.ctc_loss(
            classes.log_probabilities(scores),
            classes.spoken,
            counts,
            classes.lengths,
            zero_infinity=True,
        )

    def _distances(self, frames: Tensor, tokens: Tensor) -> Tensor:
        centres = torch.cat([self.blank[None], tokens])
        # |p|^2 is the same for every class, so a softmax does not need it.
        scores = 2 * frames @ centres.T - (centres * centres).sum(1)
        return scores.float() / self.log_tau.exp()


def pooled(states: Tensor) -> Tensor:
    """Return the means of every two steps, (batch, n, width) of (batch, 2 n, width)."""
    return F.avg_pool1d(states.transpose(1, 2), 2, 2).transpose(1, 2)


def transcribe(
    scores: Tensor,
    counts: Tensor,
    vocabulary: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
) -> list[str]:
    """Return the greedy CTC transcript of each row."""
    texts = []
    for row, count in zip(scores.argmax(-1), counts, strict=True):
        path = torch.unique_consecutive(row[: int(count)])
        said = [vocabulary[int(t) - 1] for t in path if t > 0]
        texts.append(str(tokenizer.decode(said)))
    return texts


def words(text: str) -> list[str]:
    """Return the words compared: lower case, punctuation dropped."""
    return re.findall(r"[a-z0-9']+", text.lower())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return substitutions, insertions and deletions over reference words."""
    pairs = [(words(r), words(h)) for r, h in zip(references, hypotheses, strict=True)]
    errors = sum(edit_distance(r, h) for r, h in pairs)
    return errors / max(1, sum(len(r) for r, _ in pairs))


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return the Levenshtein distance between two word sequences."""
    row = list(range(len(hypothesis) + 1))
    for place, word in enumerate(reference, start=1):
        previous, row[0] = row[0], place
        for column, other in enumerate(hypothesis, start=1):
            cost = min(row[column] + 1, row[column - 1] + 1, previous + (word != other))
            previous, row[column] = row[column], cost
    return row[-1]
