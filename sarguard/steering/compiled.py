"""Telling whether a model was compiled, which would make new hooks deaf."""

from __future__ import annotations

from torch import nn

from sarguard.errors import ConfigurationError


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
    return (
        getattr(module, "_compiled_call_impl", None) is not None
        or type(module).__name__ == "OptimizedModule"
        or hasattr(module.forward, "_torchdynamo_orig_callable")
    )
