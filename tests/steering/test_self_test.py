from __future__ import annotations

import pytest
import torch

from sarguard.errors import NonFiniteActivationError, SteeringNotAppliedError
from sarguard.steering.self_test import run_self_test
from sarguard.steering.steerer import Steerer
from tests import tiny


def test_steering_that_changes_the_answer_passes() -> None:
    loaded = tiny.build()
    with Steerer(loaded.decoder, torch.ones(3, 64)) as steerer:
        run_self_test(loaded, steerer, alpha=0.1)


def test_steering_that_changes_nothing_is_noticed() -> None:
    loaded = tiny.build()
    with (
        Steerer(loaded.decoder, torch.zeros(3, 64)) as steerer,
        pytest.raises(SteeringNotAppliedError, match="as it was"),
    ):
        run_self_test(loaded, steerer, alpha=0.1)


def test_steering_that_is_undone_later_is_noticed() -> None:
    loaded = tiny.build()
    with Steerer(loaded.decoder, torch.ones(3, 64)) as steerer:
        loaded.decoder.owner.norm.register_forward_hook(
            lambda _m, _a, out: torch.zeros_like(out)
        )
        with pytest.raises(SteeringNotAppliedError, match="as it was"):
            run_self_test(loaded, steerer, alpha=0.1)


def test_steering_that_overflows_is_noticed() -> None:
    loaded = tiny.build()
    with (
        Steerer(loaded.decoder, torch.full((3, 64), 1e38)) as steerer,
        pytest.raises(NonFiniteActivationError),
    ):
        run_self_test(loaded, steerer, alpha=1e3)


def test_steering_that_stops_after_the_prompt_is_noticed() -> None:
    loaded = tiny.build()
    layer = loaded.decoder.layers[1]
    with Steerer(loaded.decoder, torch.ones(3, 64)) as steerer:
        hooks = dict(layer._forward_hooks)

        def drop(_module: object, args: tuple[torch.Tensor, ...]) -> None:
            layer._forward_hooks.clear()
            if args[0].shape[1] > 1:
                layer._forward_hooks.update(hooks)

        def restore(*_: object) -> None:
            layer._forward_hooks.update(hooks)

        layer.register_forward_pre_hook(drop)
        loaded.decoder.layers[2].register_forward_pre_hook(restore)
        with pytest.raises(SteeringNotAppliedError, match=r"found \[2, 1, 2\]"):
            run_self_test(loaded, steerer, alpha=0.1)
