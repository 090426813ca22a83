"""Refusal vectors: one direction a layer, with and without its safe part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sarguard.errors import ArtifactFormatError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RefusalVectors:
    """The vectors of one model; all tensors are float32 on the CPU."""

    raw: Tensor
    """v, the text-derived refusal vectors, shape (L, D)."""
    ablated: Tensor
    """r, the vectors that steer, shape (L, D)."""
    explained_variance: Tensor
    """Share of the safe states' variance in each removed direction, (L, k)."""
    state_norms: Tensor
    """Mean norm of the last-token state on harmful requests, (L,)."""

    def __post_init__(self) -> None:
        layers, width = self.ablated.shape
        shapes = {
            "raw": (layers, width),
            "ablated": (layers, width),
            "state_norms": (layers,),
            # k is known to the recipe alone, so any number of columns will do.
            "explained_variance": (layers, self.explained_variance.shape[-1]),
        }
        for name, shape in shapes.items():
            found: Tensor = getattr(self, name)
            if found.dtype != torch.float32 or tuple(found.shape) != shape:
                raise ArtifactFormatError(
                    f"{name} is {found.dtype} of shape {tuple(found.shape)}: "
                    f"it has to be float32 of shape {shape}"
                )
            if not bool(torch.isfinite(found).all()):
                raise ArtifactFormatError(f"{name} holds NaN or infinity")

    @property
    def cosine(self) -> Tensor:
        """Return the cosine of raw and ablated vector in each layer, (L,)."""
        cosine: Tensor = torch.cosine_similarity(self.raw, self.ablated, dim=-1)
        return cosine

    @property
    def norms(self) -> Tensor:
        """Return the norm of the ablated vector in each layer, (L,)."""
        norms: Tensor = self.ablated.norm(dim=-1)
        return norms


def vectors_digest(vectors: Tensor) -> str:
    """Return the SHA-256 of steering vectors: their shape and float32 bytes."""
    values = vectors.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(f"{tuple(values.shape)}\n".encode())
    # Little-endian whatever the machine, so that one bundle has one digest.
    digest.update(values.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def place_on_layers(vectors: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Return each layer's vector, float32, on the layer's device.

    A model may be spread over several devices, so the place is looked up a layer at
    a time. The vectors are always copied: a caller who changes theirs changes nothing
    here.
    """
    exact = vectors.detach().to(torch.float32)
    return tuple(
        row.to(next(layer.parameters()).device, copy=True).contiguous()
        for row, layer in zip(exact, layers, strict=True)
    )
