"""Low-rank adapters on the text model's linear layers (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RANK = 16
SCALE = 2.0
TARGETS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


class LoraLinear(nn.Module):
    """A frozen linear layer plus a low-rank difference that can be switched off."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        device, width = base.weight.device, base.in_features
        self.lora_A = nn.Parameter((torch.randn(RANK, width) / width**0.5).to(device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, RANK, device=device))
        self.active = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, with the difference when it is active."""
        y: Tensor = self.base(x)
        if not self.active:
            return y
        return y + SCALE * F.linear(F.linear(x, self.lora_A), self.lora_B)


def together(*parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return one difference that is the sum of several, its rank the sum of theirs.

    Args:
        parts: Each as `Adapters.tensors` gives it, of the same layers.
    """
    return {
        name: torch.cat(
            [part[name] for part in parts], dim=int(name.endswith("lora_B"))
        )
        for name in parts[0]
    }


class Adapters:
    """Every adapter of a text model, by the path of the layer it adapts."""

    def __init__(self, language_model: nn.Module) -> None:
        self.by_path: dict[str, LoraLinear] = {}
        self._language_model = language_model
        layers: Any = language_model.layers
        for number, layer in enumerate(layers):
            for target in TARGETS:
                parent = layer.get_submodule(target.rpartition(".")[0])
                name = target.rpartition(".")[2]
                adapted = LoraLinear(getattr(parent, name))
                setattr(parent, name, adapted)
                self.by_path[f"layers.{number}.{target}"] = adapted

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the trainable matrices."""
        for adapted in self.by_path.values():
            yield adapted.lora_A
            yield adapted.lora_B

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the unmodified text model inside the block."""
        for adapted in self.by_path.values():
            adapted.active = False
        try:
            yield
        finally:
            for adapted in self.by_path.values():
                adapted.active = True

    @torch.no_grad()
    def merge(self, exact: Mapping[str, Tensor]) -> None:
        """Make the difference part of the model, and take the adapters off.

        Args:
            exact: The text model's weights before any was rounded, by their names; the
                model has their type afterwards.
        """
        for path, adapted in self.by_path.items():
            weight = exact[f"{path}.weight"]
            product = adapted.lora_B.double() @ adapted.lora_A.double()
            weight.copy_((weight.double() + SCALE * product).to(weight.dtype))
        layers: Any = self._language_model.layers
        for path, adapted in self.by_path.items():
            place, _, name = path.removeprefix("layers.").rpartition(".")
            number, _, parent = place.partition(".")
            setattr(layers[int(number)].get_submodule(parent), name, adapted.base)
        for name, parameter in self._language_model.named_parameters():
            parameter.data = exact[name].clone()

    def tensors(self) -> dict[str, Tensor]:
        """Return the matrices under the names of the shipped difference."""
        found: dict[str, Tensor] = {}
        for path, adapted in self.by_path.items():
            found[f"language_model.{path}.lora_A"] = adapted.lora_A.detach()
            found[f"language_model.{path}.lora_B"] = adapted.lora_B.detach()
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set the matrices from a dictionary made by `tensors`."""
        with torch.no_grad():
            for path, adapted in self.by_path.items():
                adapted.lora_A.copy_(tensors[f"language_model.{path}.lora_A"])
                adapted.lora_B.copy_(tensors[f"language_model.{path}.lora_B"])
