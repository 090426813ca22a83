"""Telling whether a guarded model is still made of the parts it was guarded with."""

from __future__ import annotations

from torch import nn

from sarguard.errors import SteeringRemovedError
from sarguard.models.layers import DecoderLayers


class Anatomy:
    """Remember the modules of a text decoder.

    A layer that is replaced after the guard went up has no hook; an adapter that is
    put inside one makes it another model than the bundle was made for.
    """

    def __init__(self, decoder: DecoderLayers) -> None:
        self._decoder = decoder
        self._parts = tuple(decoder.owner.modules())

    def check(self) -> None:
        """Compare the model with what it was.

        Raises:
            SteeringRemovedError: Layers or their parts were replaced.
        """
        replaced = sum(
            now is not before
            for now, before in zip(self._layers(), self._decoder.layers, strict=False)
        )
        if replaced or len(self._layers()) < len(self._decoder):
            raise SteeringRemovedError(
                f"{replaced} of {len(self._decoder)} layers at {self._decoder.path} "
                "are not those that were guarded: they were replaced; load the model "
                "again, and change it before it is guarded"
            )
        now = tuple(self._decoder.owner.modules())
        if len(now) != len(self._parts) or any(
            found is not known for found, known in zip(now, self._parts, strict=True)
        ):
            raise SteeringRemovedError(
                f"the text decoder has {len(now)} parts, not the {len(self._parts)} it "
                "was guarded with, or others: add adapters before the model is guarded "
                "and calibrate with them"
            )

    def _layers(self) -> nn.ModuleList:
        found = self._decoder.root.get_submodule(self._decoder.path)
        return found if isinstance(found, nn.ModuleList) else nn.ModuleList()
