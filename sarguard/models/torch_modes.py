"""Work that comes out the same whatever mode of torch its caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from sarguard.errors import ConfigurationError

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def ordinary_torch() -> Iterator[None]:
    """Run the block without autocast and outside inference mode.

    Both are a thread's own. A tensor that is made in inference mode cannot be written
    to outside it, and transformers' processors cannot compute in half precision.

    Raises:
        ConfigurationError: torch's default dtype or device, which all threads share, is
            one that transformers' processors cannot work with.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype != torch.float32:
        raise ConfigurationError(
            f"torch's default dtype is {dtype}, and transformers' processors need "
            "float32: call torch.set_default_dtype(torch.float32), and give a model's "
            "own dtype as dtype="
        )
    if device.type == "meta":
        raise ConfigurationError(
            "torch's default device is meta, which holds no data: call "
            "torch.set_default_device(None)"
        )
    with ExitStack() as ordinary:
        if torch.is_inference_mode_enabled():
            ordinary.enter_context(torch.inference_mode(False))
        for kind in _DEVICES:
            if torch.is_autocast_enabled(kind):
                ordinary.enter_context(torch.autocast(kind, enabled=False))
        yield
