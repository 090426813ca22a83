"""Whether a model has a refusal that can be extracted.

For a few harmful clips, the refusal sentence p = p_1 ... p_n is put where the answer
would stand, and its mean log-likelihood per token is measured three times: unsteered,
steered with the refusal vectors, and steered with a random direction of equal norm:

    L = mean_i (1/n) sum_j log P(p_j | a_i, t, p_1 ... p_{j-1})

Vectors of a model that can refuse raise L, and by far more than any push does. Those
of a model without a refusal move it as little, or as blindly, as chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sarguard.calibration.recipe import Clip, Recipe
from sarguard.errors import NoRefusalError
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.steering.steerer import Steerer
from sarguard.types import Turn

CLIPS = 8
TIMES_ALPHA = 2.0
"""The check steers with this many times the bundle's alpha."""
MIN_GAIN = 0.25
"""Nats per token that steering has to add to L beyond what a random push adds. The
embedded model adds 0.7, tiny random models up to 0.1."""
# Fixed, so that checking a model again gives the same figures.
_SEED = 2510


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalGain:
    """L unsteered, steered, and pushed at random, in nats per token."""

    clips: int
    alpha: float
    bare: float
    steered: float
    random: float

    @property
    def gain(self) -> float:
        """Return what the vectors add beyond what a random push adds, if it does."""
        # A random push that lowers L counts for nothing in the vectors' favour.
        return self.steered - self.bare - max(0.0, self.random - self.bare)

    def check(self) -> None:
        """Raise NoRefusalError if there is no refusal to extract."""
        # Negated, so that NaN fails as well.
        if not self.gain >= MIN_GAIN:
            raise NoRefusalError(
                "the model shows no refusal that could be extracted: on "
                f"{self.clips} harmful clip(s), steering with alpha {self.alpha:g} "
                f"takes the refusal sentence from {self.bare:.2f} to "
                f"{self.steered:.2f} nats per token, a random push to "
                f"{self.random:.2f}; needed is {MIN_GAIN:g} more than both. Is this "
                "the instruction-tuned checkpoint? Is the refusal sentence one that "
                "it says itself, in its own language (--refusal)?"
            )


def measure_refusal(
    loaded: LoadedModel,
    vectors: Tensor,
    clips: Sequence[Clip],
    recipe: Recipe,
    *,
    alpha: float,
) -> RefusalGain:
    """Measure what steering does to the likelihood of the refusal sentence.

    Args:
        loaded: The model, with no steerer attached.
        vectors: One vector a layer, shape (L, D).
        clips: Harmful clips at the model's rate; the first `CLIPS` are used.
        recipe: The instruction and the refusal sentence.
        alpha: Steering coefficient.
    """
    answered = [_with_refusal(loaded, clip, recipe) for clip in clips[:CLIPS]]
    pushed = random_direction(vectors)
    return RefusalGain(
        clips=len(answered),
        alpha=alpha,
        bare=_mean([_likelihood(loaded, *one) for one in answered]),
        steered=_mean(_steered(loaded, vectors, answered, alpha)),
        random=_mean(_steered(loaded, pushed, answered, alpha)),
    )


def random_direction(vectors: Tensor, *, seed: int = _SEED) -> Tensor:
    """Return a Gaussian direction a layer with the norms of `vectors`, (L, D)."""
    # On the CPU: with one seed, other devices draw other numbers.
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(vectors.shape, generator=generator, dtype=torch.float64)
    norms = vectors.double().norm(dim=-1, keepdim=True)
    direction: Tensor = drawn / drawn.norm(dim=-1, keepdim=True) * norms
    return direction.float()


def _with_refusal(
    loaded: LoadedModel, clip: Clip, recipe: Recipe
) -> tuple[dict[str, Tensor], int]:
    """Return inputs with the refusal sentence as answer, and the prompt's length."""
    turn = Turn(role="user", text=recipe.instruction, audio=(clip,))
    inputs = build_inputs(loaded, [[turn]])
    prompt = inputs["input_ids"]
    # Without special tokens: this goes on in the middle of a text.
    refusal = loaded.tokenizer(recipe.refusal, add_special_tokens=False)["input_ids"]
    answer = torch.tensor([refusal], device=prompt.device, dtype=prompt.dtype)
    for name, value in inputs.items():
        if name == "input_ids":
            inputs[name] = torch.cat([value, answer], dim=1)
        elif isinstance(value, Tensor) and value.shape == prompt.shape:
            # Masks and token types go on as they are at the prompt's end.
            inputs[name] = torch.cat(
                [value, value[:, -1:].expand(-1, len(refusal))], dim=1
            )
    return inputs, prompt.shape[1]


def _likelihood(loaded: LoadedModel, inputs: dict[str, Tensor], length: int) -> float:
    with torch.no_grad():
        logits = loaded.model(**inputs, use_cache=False).logits
    answer = inputs["input_ids"][0, length:].to(logits.device)
    # The logits at a position are those of the token after it.
    shares = logits[0, -len(answer) - 1 : -1].float().log_softmax(dim=-1)
    return float(shares.gather(1, answer[:, None]).mean())


def _steered(
    loaded: LoadedModel,
    vectors: Tensor,
    answered: Sequence[tuple[dict[str, Tensor], int]],
    alpha: float,
) -> list[float]:
    found = []
    with Steerer(loaded.decoder, vectors) as steerer:
        for inputs, length in answered:
            # The whole refusal is fed at once, and the pass chooses one token more.
            tokens = inputs["input_ids"].shape[1] - length + 1
            with steerer.guard(prompt_length=length, alpha=alpha, rows=1) as receipt:
                found.append(_likelihood(loaded, inputs, length))
            steerer.verify(receipt, output_tokens=tokens)
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
