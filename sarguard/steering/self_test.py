"""Proof at load time that steering reaches the prompt's end and the answer's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig

from sarguard.errors import NonFiniteActivationError, SteeringNotAppliedError
from sarguard.models import transformers_api
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.models.untyped import PretrainedModel
from sarguard.steering.steerer import Steerer
from sarguard.types import Turn

_SECONDS = 1.0
_PITCH_HZ = 220.0
_TOKENS = 2
"""The first comes of the whole prompt, the second of the cache and the first token:
steering may reach the one and not the other."""


def run_self_test(loaded: LoadedModel, steerer: Steerer, *, alpha: float) -> None:
    """Prove that steering changes what a model says about a synthetic clip.

    Two tokens are decoded, and the first one's distribution is compared with the
    unsteered one.

    Raises:
        SteeringNotAppliedError: The distributions are equal, or a layer was not
            steered where it had to be.
        NonFiniteActivationError: The steered distribution is not finite.
    """
    turn = Turn(role="user", text="Hello.", audio=(_tone(loaded.sampling_rate),))
    inputs = build_inputs(loaded, [[turn]])
    with steerer.bare():
        bare = _first_token(loaded, inputs, tokens=1)
    length = inputs["input_ids"].shape[1]
    with steerer.guard(prompt_length=length, alpha=alpha, rows=1) as receipt:
        steered = _first_token(loaded, inputs, tokens=_TOKENS)
    # First: NaN is equal to nothing, so it would pass for a change below.
    if not bool(torch.isfinite(steered).all()):
        raise NonFiniteActivationError(
            f"steering with alpha {alpha:g} makes the next-token distribution NaN: "
            "lower alpha, or load the model in bfloat16 or float32"
        )
    steerer.verify(receipt, output_tokens=_TOKENS)
    # Bit for bit: with a tolerance a mild dose would look like none.
    if torch.equal(bare, steered):
        raise SteeringNotAppliedError(
            f"steering with alpha {alpha:g} leaves the next-token distribution as it "
            "was: is the model compiled, or alpha too small for its dtype?"
            f"{transformers_api.untested_advice()}"
        )


def _first_token(
    loaded: LoadedModel, inputs: Mapping[str, Tensor], *, tokens: int
) -> Tensor:
    """Decode so many tokens; return the first one's distribution, on the CPU."""
    loop = _Loop(tokens)
    # No token ends these answers, so any id may fill them up.
    config = transformers_api.greedy_settings(max_new_tokens=tokens, stops=(), pad=0)
    transformers_api.run_loop(loaded.model, inputs, config, loop)
    return loop.first


class _Loop:
    """A stand-in for the library's sampling loop: the likeliest token, and no end."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self.first = torch.empty(0)

    def __call__(
        self,
        model: PretrainedModel,
        input_ids: Tensor,
        generation_config: GenerationConfig,
        **kwargs: Any,  # noqa: ANN401
    ) -> Tensor:
        # generate() hands these to every loop; the likeliest token needs neither.
        for name in ("logits_processor", "stopping_criteria"):
            kwargs.pop(name, None)
        output = transformers_api.prefill(model, input_ids, generation_config, kwargs)
        self.first = output.logits[0, -1].float().softmax(dim=-1).cpu()
        for _ in range(self._tokens - 1):
            kwargs = transformers_api.after_pass(model, output, kwargs)
            token = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            input_ids = torch.cat([input_ids, token], dim=-1)
            output = transformers_api.run_last_token(model, input_ids, kwargs)
        return input_ids


def _tone(rate: int) -> NDArray[np.float32]:
    time = np.arange(int(_SECONDS * rate)) / rate
    return (0.1 * np.sin(2 * np.pi * _PITCH_HZ * time)).astype(np.float32)
