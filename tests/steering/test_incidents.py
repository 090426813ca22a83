"""Ways in which steering libraries have answered unsteered without a word.

Nine of these are public incidents of other projects; the rest are related failures.
Each has to end in a steered answer or in a typed error, never in silence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import StaticCache

from sarguard.client import FALLBACK, SafeAudioLLM
from sarguard.decoding import guarded_decode
from sarguard.errors import (
    ConfigurationError,
    SteeringError,
    SteeringNotAppliedError,
    UnsupportedModelError,
)
from sarguard.models.inputs import build_inputs
from sarguard.models.layers import find_decoder_layers
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import passing_cache, returned_cache
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.residual import read_residual, write_residual
from sarguard.steering.steerer import Steerer
from sarguard.types import Outcome, Turn
from tests import tiny

ALPHA = 0.3
STEPS = 4


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.build()


@pytest.fixture
def steerer(loaded: LoadedModel) -> Iterator[Steerer]:
    with Steerer(loaded.decoder, vectors_for(loaded)) as attached:
        yield attached


@pytest.fixture
def client(loaded: LoadedModel, tiny_bundle: SteeringBundle) -> Iterator[SafeAudioLLM]:
    with SafeAudioLLM.from_loaded(
        loaded, tiny_bundle, alpha=tiny_bundle.card.alpha
    ) as opened:
        yield opened


def vectors_for(loaded: LoadedModel) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (len(loaded.decoder), loaded.decoder.hidden_size)
    return 5 * torch.randn(shape, generator=generator)


def ask(loaded: LoadedModel, *texts: str) -> dict[str, Tensor]:
    clip = tiny.clip(0.5)
    return build_inputs(
        loaded, [[Turn(role="user", text=text, audio=(clip,))] for text in texts]
    )


def decode(
    loaded: LoadedModel, steerer: Steerer, alpha: float = ALPHA
) -> tuple[int, ...]:
    inputs = ask(loaded, "One.")
    (found,) = guarded_decode(
        loaded, steerer, inputs, alpha=alpha, max_new_tokens=STEPS
    )
    return tuple(found.token_ids)


def run(loaded: LoadedModel, inputs: dict[str, Tensor], **options: Any) -> Any:  # noqa: ANN401
    with torch.no_grad():
        return loaded.model(**inputs, **options)


def assert_closed(client: SafeAudioLLM, fault: str) -> None:
    """Ask, and expect the fallback with its reason in place of an answer."""
    reply = client.generate((tiny.clip(0.5), tiny.RATE), "Hi.", max_new_tokens=2)
    assert reply.outcome is Outcome.ERROR_CLOSED
    assert reply.text == FALLBACK
    assert reply.guard.fault is not None
    assert fault in reply.guard.fault


class TestNineIncidents:
    def test_1_a_runner_that_skips_every_hook(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        # A runner of its own calls forward() of each layer, past the hooks.
        for layer in loaded.decoder.layers:
            bypass(layer)
        with pytest.raises(SteeringNotAppliedError, match=r"found \[0, 0, 0\]"):
            decode(loaded, steerer)

    @pytest.mark.parametrize("way", ["generate", "forward", "backbone", "decoder"])
    def test_2_another_way_into_the_model(
        self, loaded: LoadedModel, steerer: Steerer, way: str
    ) -> None:
        inputs = ask(loaded, "One.")
        ids = {"input_ids": inputs["input_ids"]}
        ways: dict[str, Callable[[], object]] = {
            "generate": lambda: loaded.model.generate(**inputs, max_new_tokens=1),
            "forward": lambda: run(loaded, inputs),
            "backbone": lambda: loaded.decoder.backbone(**inputs),
            "decoder": lambda: loaded.decoder.owner(**ids),
        }
        with pytest.raises(SteeringNotAppliedError, match="called directly"):
            ways[way]()

    def test_3_half_of_a_residual_is_not_a_state(self) -> None:
        delta, residual = torch.ones(1, 3, 8), torch.zeros(1, 3, 8)
        with pytest.raises(UnsupportedModelError, match="whole residual"):
            read_residual((delta, residual))
        weights = torch.zeros(1, 2, 3, 3)
        assert read_residual((delta, weights)) is delta

    def test_3_the_next_layer_reads_what_was_pushed(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "One.")
        seen: list[Tensor] = []
        loaded.decoder.layers[1].register_forward_pre_hook(
            lambda _m, args: seen.append(args[0].clone())
        )
        with steerer.bare():
            run(loaded, inputs)
        with steerer.guard(
            prompt_length=inputs["input_ids"].shape[1], alpha=ALPHA, rows=1
        ):
            run(loaded, inputs)
        moved = (seen[1] - seen[0])[0, -1]
        torch.testing.assert_close(moved, ALPHA * vectors_for(loaded)[0])

    def test_4_rows_beyond_the_first(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "One.", "Two.", "Three.")
        with steerer.bare():
            bare = run(loaded, inputs).logits[:, -1]
        with steerer.guard(
            prompt_length=inputs["input_ids"].shape[1], alpha=ALPHA, rows=3
        ):
            steered = run(loaded, inputs).logits[:, -1]
        assert bool(((steered - bare).abs().amax(dim=1) > 0).all())

    def test_5_no_layer_by_that_name(self, loaded: LoadedModel) -> None:
        with pytest.raises(UnsupportedModelError, match="is not in"):
            find_decoder_layers(loaded.model, decoder_layers="model.layers")
        with pytest.raises(UnsupportedModelError, match="no list of attention blocks"):
            find_decoder_layers(nn.Sequential(nn.Linear(2, 2)))

    def test_6_one_layer_called_past_its_hook(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        bypass(loaded.decoder.layers[1])
        with pytest.raises(SteeringNotAppliedError, match=r"found \[1, 0, 1\]"):
            decode(loaded, steerer)

    def test_7_a_guard_that_fails_to_load_leaves_no_client(
        self,
        loaded: LoadedModel,
        tiny_bundle: SteeringBundle,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ImportError("a plugin is missing")

        monkeypatch.setattr(Steerer, "attach", broken)
        with pytest.raises(ImportError, match="plugin"):
            SafeAudioLLM.from_loaded(loaded, tiny_bundle)

    @pytest.mark.parametrize("part", ["model", "decoder", "layer", "forward"])
    def test_8_hooks_after_a_compile(self, loaded: LoadedModel, part: str) -> None:
        if part == "model":
            loaded.model.compile(backend="eager")
        elif part == "decoder":
            loaded.decoder.owner.compile(backend="eager")
        elif part == "layer":
            loaded.decoder.layers[1].compile(backend="eager")
        else:
            forward = torch.compile(loaded.model.forward, backend="eager")
            loaded.model.forward = forward
        with pytest.raises(ConfigurationError, match="before it is compiled"):
            Steerer(loaded.decoder, vectors_for(loaded)).attach()

    def test_9_an_old_alpha_does_not_stay(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "One.")
        length = inputs["input_ids"].shape[1]
        found = []
        for alpha in (0.1, 0.8, 0.1):
            with steerer.guard(prompt_length=length, alpha=alpha, rows=1):
                found.append(run(loaded, inputs).logits[0, -1])
        assert torch.equal(found[0], found[2])
        assert not torch.allclose(found[0], found[1])

    @pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
    def test_9_an_alpha_of_zero_is_refused(
        self, loaded: LoadedModel, steerer: Steerer, alpha: float
    ) -> None:
        with pytest.raises(ConfigurationError, match="alpha"):
            decode(loaded, steerer, alpha=alpha)


class TestRelatedFailures:
    def test_the_first_answer_token_is_decided_by_a_steered_state(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        # Masking the last prompt token leaves the first answer token unsteered.
        inputs = ask(loaded, "One.")
        length = inputs["input_ids"].shape[1]
        with steerer.bare():
            bare = run(loaded, inputs).logits[0, -1]
        with steerer.guard(prompt_length=length, alpha=ALPHA, rows=1) as receipt:
            steered = run(loaded, inputs).logits[0, -1]
        steerer.verify(receipt, output_tokens=1)
        assert not torch.allclose(bare, steered)

    def test_hooks_removed_behind_our_back(
        self, loaded: LoadedModel, client: SafeAudioLLM
    ) -> None:
        for layer in loaded.decoder.layers:
            layer._forward_hooks.clear()
        assert_closed(client, "SteeringRemovedError")

    def test_the_vectors_overwritten(self, client: SafeAudioLLM) -> None:
        client._backend.steerer._vectors[0].mul_(0.5)
        assert_closed(client, "SteeringRemovedError")

    def test_alpha_overwritten(self, loaded: LoadedModel, client: SafeAudioLLM) -> None:
        def weaken(*_: object) -> None:
            for alphas in client._backend.steerer._alphas.values():
                alphas.fill_(1e-9)

        loaded.decoder.layers[0].register_forward_pre_hook(weaken)
        assert_closed(client, "SteeringRemovedError")

    def test_a_layer_replaced_after_loading(
        self, loaded: LoadedModel, client: SafeAudioLLM
    ) -> None:
        stack = loaded.model.get_submodule(loaded.decoder.path)
        stack[1] = tiny.build(seed=1).decoder.layers[1]
        assert_closed(client, "1 of 3 layers")

    def test_every_layer_replaced_after_loading(
        self, loaded: LoadedModel, client: SafeAudioLLM
    ) -> None:
        loaded.decoder.owner.layers = nn.ModuleList(tiny.build(seed=1).decoder.layers)
        assert_closed(client, "3 of 3 layers")

    def test_an_adapter_put_into_a_layer_after_loading(
        self, loaded: LoadedModel, client: SafeAudioLLM
    ) -> None:
        # This is how PEFT does it: the layer stays, a linear layer in it is wrapped.
        attention = loaded.decoder.layers[1].self_attn
        attention.q_proj = Adapted(attention.q_proj)
        assert_closed(client, "add adapters before the model is guarded")

    def test_a_model_with_an_adapter_from_the_start_is_guarded(
        self, loaded: LoadedModel
    ) -> None:
        attention = loaded.decoder.layers[1].self_attn
        attention.q_proj = Adapted(attention.q_proj)
        with Steerer(loaded.decoder, vectors_for(loaded)) as attached:
            assert decode(loaded, attached)

    def test_another_threads_request(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "One.")
        caught: list[BaseException] = []

        def intrude() -> None:
            try:
                run(loaded, inputs)
            except SteeringError as error:
                caught.append(error)

        with steerer.guard(
            prompt_length=inputs["input_ids"].shape[1], alpha=ALPHA, rows=1
        ):
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()
        assert [type(error) for error in caught] == [SteeringNotAppliedError]

    def test_a_client_that_failed_its_self_test_gives_the_model_back(
        self, loaded: LoadedModel, tiny_bundle: SteeringBundle
    ) -> None:
        handle = loaded.decoder.owner.norm.register_forward_hook(
            lambda _m, _a, out: torch.zeros_like(out)
        )
        with pytest.raises(SteeringNotAppliedError, match="as it was"):
            SafeAudioLLM.from_loaded(loaded, tiny_bundle)
        handle.remove()
        run(loaded, ask(loaded, "One."))


class TestOtherWaysToDecode:
    @pytest.mark.parametrize("chunk", [1, 3, 7])
    def test_a_prompt_in_chunks_gives_the_same(
        self, loaded: LoadedModel, steerer: Steerer, chunk: int
    ) -> None:
        ids = torch.arange(10)[None]
        with steerer.guard(prompt_length=10, alpha=ALPHA, rows=1):
            whole = run(loaded, {"input_ids": ids}).logits[:, -1]
        cache = None
        with steerer.guard(prompt_length=10, alpha=ALPHA, rows=1) as receipt:
            for start in range(0, 10, chunk):
                end = min(start + chunk, 10)
                output = run(
                    loaded,
                    {"input_ids": ids[:, start:end]},
                    attention_mask=torch.ones(1, end, dtype=torch.long),
                    **passing_cache(cache),
                    use_cache=True,
                )
                cache = returned_cache(output)
        steerer.verify(receipt, output_tokens=1)
        torch.testing.assert_close(output.logits[:, -1], whole, atol=1e-4, rtol=1e-4)

    def test_without_a_cache_it_is_exact_and_still_not_taken_for_proven(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "One.")
        length = inputs["input_ids"].shape[1]
        expected = decode(loaded, steerer)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with steerer.guard(prompt_length=length, alpha=ALPHA, rows=1) as receipt:
            for _ in expected:
                step = {**inputs, "input_ids": ids, "attention_mask": mask}
                token = run(loaded, step, use_cache=False).logits[:, -1:].argmax(-1)
                ids = torch.cat([ids, token], dim=1)
                mask = torch.ones_like(ids)
        assert tuple(ids[0, length:].tolist()) == expected
        with pytest.raises(SteeringNotAppliedError):
            steerer.verify(receipt, output_tokens=len(expected))

    def test_guessed_tokens_are_not_taken_for_proven(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        # A draft of three is fed at once, and one of them is rejected.
        inputs = ask(loaded, "One.")
        length = inputs["input_ids"].shape[1]
        with steerer.guard(prompt_length=length, alpha=ALPHA, rows=1) as receipt:
            output = run(loaded, inputs, use_cache=True)
            run(
                loaded,
                {"input_ids": torch.tensor([[5, 6, 7]])},
                **passing_cache(returned_cache(output)),
                attention_mask=torch.ones(1, length + 3, dtype=torch.long),
            )
        with pytest.raises(SteeringNotAppliedError, match="found"):
            steerer.verify(receipt, output_tokens=3)

    def test_a_static_cache_gives_the_same(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "One.")
        length = inputs["input_ids"].shape[1]
        expected = decode(loaded, steerer)
        cache = StaticCache(loaded.model.config, max_cache_len=length + STEPS)
        with steerer.guard(prompt_length=length, alpha=ALPHA, rows=1) as receipt:
            tokens, step = [], dict(inputs)
            for index in range(len(expected)):
                logits = run(loaded, step, **passing_cache(cache)).logits[:, -1:]
                tokens.append(int(logits.argmax(-1)))
                step = {
                    "input_ids": logits.argmax(-1),
                    "attention_mask": torch.ones(1, length + index + 1).long(),
                }
        steerer.verify(receipt, output_tokens=len(expected))
        assert tuple(tokens) == expected


def bypass(layer: nn.Module) -> None:
    """Make a layer run without its hooks, as a runner does that calls forward()."""
    forward = layer.forward

    class Bypassed(type(layer)):  # type: ignore[misc]
        def __call__(self, *args: object, **kwargs: object) -> object:
            return forward(*args, **kwargs)

    layer.__class__ = Bypassed


class Adapted(nn.Module):
    """Add a low-rank product to a linear layer, as an adapter does."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        product: Tensor = self.base(hidden) + self.up(self.down(hidden))
        return product


def test_what_is_read_is_what_is_written() -> None:
    four = torch.arange(48.0).reshape(4, 1, 3, 4)
    changed = write_residual(four, read_residual(four, 4) + 1)
    assert torch.equal(changed[0], four[0] + 1)
    assert torch.equal(changed[1:], four[1:])
    with pytest.raises(UnsupportedModelError, match="4 stream"):
        read_residual(four[:2], 4)
    with pytest.raises(UnsupportedModelError, match="1 stream"):
        read_residual(four)
    pair = write_residual((torch.zeros(1, 2, 3), "cache"), torch.ones(1, 2, 3))
    assert pair[1] == "cache"
    assert bool(pair[0].all())
