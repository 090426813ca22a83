"""Whether a guarded model, and what steers it, are still what they were."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sarguard.errors import ConfigurationError, SteeringRemovedError
from sarguard.models.layers import DecoderLayers

_SAMPLES = 64
"""Values of a parameter that are compared."""
_TURNS = 16
"""Checks after which the values of every parameter were compared."""


class ModelIntegrity:
    """The modules that a text decoder was made of when it was guarded.

    A layer that is replaced later has no hook; an adapter that is put inside one
    makes it another model than the bundle was made for.
    """

    def __init__(self, decoder: DecoderLayers) -> None:
        self._decoder = decoder
        # The modules themselves, not their ids: a new object can get the id of one that
        # is gone.
        self._modules = tuple(decoder.owner.modules())

    def check(self) -> None:
        """Compare the model with what it was.

        Raises:
            SteeringRemovedError: Layers or modules in them were replaced.
        """
        # Compared with a list of any length here; a list that is too short is an error
        # as well, and additions are found among the modules below.
        layers = self._layers()
        replaced = sum(
            now is not before
            for now, before in zip(layers, self._decoder.layers, strict=False)
        )
        if replaced or len(layers) < len(self._decoder):
            raise SteeringRemovedError(
                f"{replaced} of {len(self._decoder)} layers at {self._decoder.path} "
                "are not those that were guarded: they were replaced; load the model "
                "again, and change it before it is guarded"
            )
        now = tuple(self._decoder.owner.modules())
        if len(now) != len(self._modules) or any(
            found is not known for found, known in zip(now, self._modules, strict=True)
        ):
            raise SteeringRemovedError(
                f"the text decoder has {len(now)} modules, not the "
                f"{len(self._modules)} it was guarded with, or others: add adapters "
                "before the model is guarded and calibrate with them"
            )

    def _layers(self) -> nn.ModuleList:
        # Looked up anew: the list itself may have been replaced in its parent.
        found = self._decoder.root.get_submodule(self._decoder.path)
        return found if isinstance(found, nn.ModuleList) else nn.ModuleList()


class TensorSnapshot:
    """A copy of tensors, to tell whether they were changed in place.

    A comparison on the device costs microseconds, so it is made at every step; the
    digest, which costs a copy to the CPU, at both ends of a request.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # One tensor a device, so that a comparison is one operation there, and one
        # wait.
        self._copies = {
            device: torch.stack(found) for device, found in _by_device(tensors).items()
        }

    def differs(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether any of the tensors is not what it was."""
        found = {d: torch.stack(t) for d, t in _by_device(tensors).items()}
        return found.keys() != self._copies.keys() or not all(
            torch.equal(found[device], copy) for device, copy in self._copies.items()
        )


def refuse_compiled(root: nn.Module) -> None:
    """Raise if any part of a model is compiled.

    A hook that is added after torch.compile is ignored without a word: the prompt
    would be steered and the answer would not.

    Raises:
        ConfigurationError: Something is compiled.
    """
    for name, module in root.named_modules():
        if _is_compiled(module):
            raise ConfigurationError(
                f"{name or type(root).__name__} is compiled by torch.compile, so "
                "steering could not reach it: give sarguard the model before it is "
                "compiled"
            )


def _is_compiled(module: nn.Module) -> bool:
    # Three ways to compile leave three traces: module.compile(), torch.compile(module)
    # and torch.compile(module.forward).
    return (
        getattr(module, "_compiled_call_impl", None) is not None
        or type(module).__name__ == "OptimizedModule"
        or hasattr(module.forward, "_torchdynamo_orig_callable")
    )


def _by_device(tensors: Iterable[Tensor]) -> dict[torch.device, list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _HeldWeight:
    """One parameter as it was."""

    owner: nn.Module
    attribute: str
    name: str
    parameter: nn.Parameter
    facts: tuple[object, ...]
    sample: Tensor

    def fault(self, *, sampled: bool) -> str | None:
        """Return what is no longer as it was, or None."""
        now = self.owner._parameters.get(self.attribute)
        if now is not self.parameter:
            return "was replaced"
        facts = _facts(self.parameter)
        if facts != self.facts:
            was, found = str(self.facts[0]), str(facts[0])
            if was != found:
                return f"was cast from {was} to {found}"
            return "was moved or written to"
        if sampled and not torch.equal(_sample_bits(self.parameter), self.sample):
            return "holds other values"
        return None


class WeightsIntegrity:
    """Whether a model's parameters are the ones that its bundle was checked against.

    Every check compares each parameter's place, type and version, which torch counts up
    with every write that it sees, and the values of a sixteenth of the parameters, in
    turn, for writes that it does not see (`parameter.data`).
    """

    def __init__(self, model: nn.Module) -> None:
        """Note what the parameters are; first use may still have changed them."""
        self._held = [
            _HeldWeight(
                module,
                attribute,
                f"{path}.{attribute}" if path else attribute,
                parameter,
                _facts(parameter),
                _sample_bits(parameter),
            )
            for path, module in model.named_modules()
            for attribute, parameter in module._parameters.items()
            if parameter is not None and not parameter.is_meta
        ]
        self._turn = 0

    def check(self) -> None:
        """Compare the parameters with what they were.

        Raises:
            SteeringRemovedError: One was replaced, cast, moved or written to.
        """
        self._turn = (self._turn + 1) % _TURNS
        for place, held in enumerate(self._held):
            fault = held.fault(sampled=place % _TURNS == self._turn)
            if fault is not None:
                raise SteeringRemovedError(
                    f"the weights are not those that the bundle was made for: "
                    f"{held.name} {fault} after the model was guarded; load the "
                    "model again, and change it before it is guarded"
                )


def _facts(parameter: nn.Parameter) -> tuple[object, ...]:
    # Tensors that were made in inference mode count no versions.
    version = None if parameter.is_inference() else parameter._version
    return (
        parameter.dtype,
        parameter.device,
        parameter.shape,
        parameter.data_ptr(),
        version,
    )


def _sample_bits(parameter: nn.Parameter) -> Tensor:
    """Return up to 64 evenly spaced elements as bytes, so that NaN equals itself."""
    flat = parameter.detach().reshape(-1)
    count = min(_SAMPLES, flat.numel())
    places = torch.arange(count, device=flat.device)
    chosen = flat[places * max(1, (flat.numel() - 1)) // max(1, count - 1)]
    return chosen.contiguous().view(torch.uint8)
