"""Proof at load time that steering changes what the model is about to say."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sarguard.conversation import Turn
from sarguard.errors import NonFiniteActivationError, SteeringNotAppliedError
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.steering.steerer import Steerer

_SECONDS = 1.0
_PITCH_HZ = 220.0


def check_steering_bites(
    loaded: LoadedModel, steerer: Steerer, *, alpha: float
) -> None:
    """Compare bare and steered next-token distributions on a synthetic clip.

    Raises:
        SteeringNotAppliedError: They are the same, or a layer was not steered.
        NonFiniteActivationError: The steered distribution is not finite.
    """
    turn = Turn(role="user", text="Hello.", audio=(_tone(loaded.sampling_rate),))
    inputs = build_inputs(loaded, [[turn]])
    with steerer.reading():
        bare = _next_token(loaded, inputs)
    length = inputs["input_ids"].shape[1]
    with steerer.guard(prompt_length=length, alpha=alpha, rows=1) as receipt:
        steered = _next_token(loaded, inputs)
    steerer.verify(receipt, output_tokens=1)
    if not bool(torch.isfinite(steered).all()):
        raise NonFiniteActivationError(
            f"steering with alpha {alpha:g} makes the next-token distribution NaN: "
            "lower alpha, or load the model in bfloat16 or float32"
        )
    if torch.equal(bare, steered):
        raise SteeringNotAppliedError(
            f"steering with alpha {alpha:g} leaves the next-token distribution as it "
            "was: is the model compiled, or alpha too small for its dtype?"
        )


def _next_token(loaded: LoadedModel, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = loaded.model(**inputs, use_cache=False).logits
    return logits[0, -1].float().softmax(dim=-1).cpu()


def _tone(rate: int) -> NDArray[np.float32]:
    time = np.arange(int(_SECONDS * rate)) / rate
    return (0.1 * np.sin(2 * np.pi * _PITCH_HZ * time)).astype(np.float32)
