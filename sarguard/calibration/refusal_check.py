"""Whether a model has a refusal that can be extracted.

For a few pairs, the refusal sentence p = p_1 ... p_n is put where the answer would
stand, and its mean log-likelihood per token is measured:

    L = mean_i (1/n) sum_j log P(p_j | a_i, t, p_1 ... p_{j-1})

four times: after the harmless clips, and after the harmful ones unsteered, steered with
the refusal vectors, and steered with a random direction of equal norm. A model has a
refusal if it shows by itself, in a sentence that is likelier after harmful clips than
after the harmless ones, or all but certain; or if the vectors raise L, and by far more
than any push does. Where L is near 0 already, little can be gained: vectors then have
to gain a share of what is left. Those of a model without a refusal move L as little,
or as blindly, as chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sarguard.calibration.recipe import Clip, Pair, Recipe
from sarguard.calibration.states import calibration_states
from sarguard.errors import NoRefusalError
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.steering.steerer import Steerer
from sarguard.types import Turn

CLIPS = 8
TIMES_ALPHA = 2.0
"""The check steers with this many times the bundle's alpha."""
MIN_GAIN = 0.25
"""Nats per token that steering has to add to L beyond what a random push adds, or the
share of -L where that is less. The embedded model adds 0.7, tiny random models up to
0.16."""
MIN_CONTRAST = 0.25
"""Nats per token by which the sentence is likelier after harmful clips than after the
matched harmless ones in a model that refuses by itself; up to 0.13 in tiny random
models."""
CERTAIN = -0.1
"""L from which on a model says the sentence, whatever it hears."""
_EARLY = 0.8
"""Share of all three that is enough on the few pairs that are read first."""
# Fixed, so that checking a model again gives the same figures.
_SEED = 2510


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalLikelihood:
    """L in four cases, in nats per token."""

    clips: int
    alpha: float
    bare: float
    """After harmful clips, unsteered."""
    harmless: float
    """After the matched harmless clips, unsteered."""
    steered: float
    random: float

    @property
    def contrast(self) -> float:
        """Return how far the model itself tells harmful clips from harmless ones."""
        return self.bare - self.harmless

    @property
    def gain(self) -> float:
        """Return what the vectors add beyond what a random push adds, if it does."""
        # A random push that lowers L counts for nothing in the vectors' favour.
        return self.steered - self.bare - max(0.0, self.random - self.bare)

    @property
    def needed(self) -> float:
        """Return the least gain of a model that does not refuse by itself."""
        return MIN_GAIN * min(1.0, -self.bare)

    def check(self, *, early: bool = False) -> None:
        """Raise NoRefusalError if there is no refusal to extract.

        Args:
            early: Whether this is of a few pairs, so that less is enough.
        """
        found = (self.bare, self.harmless, self.steered, self.random)
        share = _EARLY if early else 1.0
        refuses = self.contrast >= share * MIN_CONTRAST or self.bare >= CERTAIN / share
        if all(map(math.isfinite, found)) and (
            refuses or self.gain >= share * self.needed
        ):
            return
        raise NoRefusalError(
            "the model shows no refusal that could be extracted. On "
            f"{self.clips} harmful clip(s) the refusal sentence has {self.bare:.2f} "
            f"nats per token, on their harmless twins {self.harmless:.2f}: a model "
            f"that refuses by itself has {MIN_CONTRAST:g} less there. Steering with "
            f"alpha {self.alpha:g} takes the sentence to {self.steered:.2f}, a random "
            f"push to {self.random:.2f}: otherwise {self.needed:.2g} more than both is "
            "needed. Is this the instruction-tuned checkpoint? Is the refusal sentence "
            "one that it says itself, in its own language (--refusal)?"
        )


def check_early(
    loaded: LoadedModel, pairs: Sequence[Pair], recipe: Recipe, *, alpha: float
) -> None:
    """Raise NoRefusalError now if a few pairs show that there is no refusal.

    All of calibration takes minutes to an hour, and would end the same.

    Args:
        loaded: The model, with no steerer attached.
        pairs: The first `CLIPS` are read.
        recipe: The instruction and the refusal sentence.
        alpha: Steering coefficient.
    """
    few = pairs[:CLIPS]
    states = calibration_states(loaded, few, recipe)
    # Not ablated: so few clips span no safe subspace.
    vectors = (states.refusing.double() - states.harmful.double()).mean(dim=0).float()
    measure_refusal(loaded, vectors, few, recipe, alpha=alpha).check(early=True)


def measure_refusal(
    loaded: LoadedModel,
    vectors: Tensor,
    pairs: Sequence[Pair],
    recipe: Recipe,
    *,
    alpha: float,
) -> RefusalLikelihood:
    """Measure how likely the refusal sentence is, by itself and steered.

    Args:
        loaded: The model, with no steerer attached.
        vectors: One vector a layer, shape (L, D).
        pairs: Clips at the model's rate; the first `CLIPS` are used.
        recipe: The instruction and the refusal sentence.
        alpha: Steering coefficient.
    """
    few = pairs[:CLIPS]
    answered = [with_refusal(loaded, pair.harmful, recipe) for pair in few]
    harmless = [with_refusal(loaded, pair.safe, recipe) for pair in few]
    pushed = random_direction(vectors)
    return RefusalLikelihood(
        clips=len(answered),
        alpha=alpha,
        bare=_mean([_likelihood(loaded, *one) for one in answered]),
        harmless=_mean([_likelihood(loaded, *one) for one in harmless]),
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


def with_refusal(
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
