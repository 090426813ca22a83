"""Steps of a fixed answer with a static cache, eager or compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import passing_cache
from sarguard.steering.steerer import Steerer

LENGTH = 6
STEPS = 4
IDS = torch.tensor([[5, 9, 2, 7, 3, 8], [4, 4, 1, 6, 2, 9]])
ALPHAS = [[0.1, 0.4], [0.7, 0.2], [0.3, 0.3]]


def vectors_for(loaded: LoadedModel) -> Tensor:
    """Return random vectors that show in the logits."""
    generator = torch.Generator().manual_seed(5)
    shape = (len(loaded.decoder), loaded.decoder.hidden_size)
    return 5 * torch.randn(shape, generator=generator)


def logits_of(
    loaded: LoadedModel,
    steerer: Steerer,
    model: Any,  # noqa: ANN401
    alpha: list[float],
) -> Tensor:
    """Return the logits of each step of a fixed answer, with a static cache."""
    device = loaded.device
    cache = StaticCache(loaded.model.config, max_cache_len=LENGTH + STEPS)
    found, fed = [], IDS.to(device)
    guard = steerer.guard(prompt_length=LENGTH, alpha=alpha, rows=2)
    with guard as receipt, torch.no_grad():
        for step in range(STEPS):
            start = 0 if step == 0 else LENGTH + step - 1
            positions = torch.arange(start, start + fed.shape[1], device=device)
            # The prompt has another shape than the steps: only those are compiled.
            forward = loaded.model if step == 0 else model
            output = forward(
                input_ids=fed,
                position_ids=positions[None].expand(2, -1),
                **passing_cache(cache),
                use_cache=True,
            )
            found.append(output.logits[:, -1].clone())
            fed = torch.full((2, 1), 10 + step, device=device)
    steerer.verify(receipt, output_tokens=STEPS)
    return torch.stack(found)


def graphs() -> int:
    """Return how many graphs the compiler has made."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
