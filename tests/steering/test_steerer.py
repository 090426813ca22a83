from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sarguard.decoding import guarded_decode
from sarguard.errors import (
    ConfigurationError,
    NonFiniteActivationError,
    SteeringError,
    SteeringNotAppliedError,
    SteeringRemovedError,
)
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import passing_cache, returned_cache
from sarguard.steering.steerer import Steerer
from sarguard.types import Turn
from tests import tiny

ALPHA = 0.3
Layers = dict[int, Tensor]


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.build(request.param)


@pytest.fixture
def qwen() -> LoadedModel:
    return tiny.build()


@pytest.fixture
def steerer(loaded: LoadedModel) -> Iterator[Steerer]:
    with Steerer(loaded.decoder, vectors_for(loaded)) as attached:
        yield attached


def vectors_for(loaded: LoadedModel, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(loaded.decoder), loaded.decoder.hidden_size)
    return 5 * torch.randn(shape, generator=generator)


def ask(loaded: LoadedModel, *texts: str) -> dict[str, Tensor]:
    clips = [tiny.clip(0.5 + 0.2 * i, pitch=200 + 50 * i) for i in range(len(texts))]
    return build_inputs(
        loaded,
        [
            [Turn(role="user", text=text, audio=(clip,))]
            for text, clip in zip(texts, clips, strict=True)
        ],
    )


def run(loaded: LoadedModel, inputs: dict[str, Tensor], **options: Any) -> Any:  # noqa: ANN401
    with torch.no_grad():
        return loaded.model(**inputs, **options)


def first_layer(loaded: LoadedModel, action: Callable[[], object]) -> Tensor:
    """Return what the first layer hands on while an action runs its one forward."""
    seen: list[Tensor] = []
    layer = loaded.decoder.layers[0]
    handle = layer.register_forward_hook(lambda _m, _a, out: seen.append(out.clone()))
    action()
    handle.remove()
    return seen[0]


class TestPositions:
    def test_only_the_last_prompt_token_is_steered(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "One.", "A longer question than that.")
        rows, length = inputs["input_ids"].shape
        with steerer.bare():
            bare = first_layer(loaded, lambda: run(loaded, inputs))
        with steerer.guard(prompt_length=length, alpha=ALPHA, rows=rows):
            steered = first_layer(loaded, lambda: run(loaded, inputs))
        assert torch.equal(steered[:, :-1], bare[:, :-1])
        expected = (ALPHA * vectors_for(loaded)[0]).expand(rows, -1)
        torch.testing.assert_close(steered[:, -1] - bare[:, -1], expected)

    def test_many_new_positions_in_one_pass_are_all_steered(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        # The authors' rule pushes only the last of them, as drafts would be.
        inputs = ask(loaded, "One.")
        length = inputs["input_ids"].shape[1]
        answer = torch.tensor([[5, 6, 7, 8]])
        whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], answer], 1)}
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        with steerer.guard(prompt_length=length, alpha=ALPHA, rows=1) as at_once:
            together = run(loaded, whole).logits[:, length - 1 :]
        with steerer.guard(prompt_length=length, alpha=ALPHA, rows=1) as stepwise:
            output = run(loaded, inputs, use_cache=True)
            logits = [output.logits[:, -1]]
            for i in range(answer.shape[1]):
                output = run(
                    loaded,
                    {"input_ids": answer[:, i : i + 1]},
                    attention_mask=torch.ones(1, length + i + 1, dtype=torch.long),
                    **passing_cache(returned_cache(output)),
                )
                logits.append(output.logits[:, -1])
        steerer.verify(at_once, output_tokens=5)
        steerer.verify(stepwise, output_tokens=5)
        torch.testing.assert_close(
            together, torch.stack(logits, dim=1), atol=2e-4, rtol=1e-4
        )

    def test_a_chunked_prompt_is_steered_at_its_end_alone(
        self, qwen: LoadedModel
    ) -> None:
        ids = torch.arange(10)[None]
        with Steerer(qwen.decoder, vectors_for(qwen)) as steerer:
            with steerer.guard(prompt_length=10, alpha=ALPHA, rows=1):
                whole = run(qwen, {"input_ids": ids}).logits[:, -1]
            with steerer.guard(prompt_length=10, alpha=ALPHA, rows=1) as receipt:
                first = run(qwen, {"input_ids": ids[:, :6]}, use_cache=True)
                assert receipt.steered == [0, 0, 0]
                rest = run(
                    qwen,
                    {"input_ids": ids[:, 6:]},
                    **passing_cache(returned_cache(first)),
                    attention_mask=torch.ones(1, 10, dtype=torch.long),
                ).logits[:, -1]
            steerer.verify(receipt, output_tokens=1)
        torch.testing.assert_close(rest, whole, atol=1e-4, rtol=1e-4)


class TestBatches:
    def test_mixed_alphas_in_a_padded_batch_answer_like_each_row_alone(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        texts = ["One.", "A somewhat longer question.", "Three?"]
        alphas = [0.05, 0.3, 0.9]
        inputs = ask(loaded, *texts)
        assert int(inputs["attention_mask"].sum(1).min()) < inputs["input_ids"].shape[1]
        together = guarded_decode(
            loaded, steerer, inputs, alpha=alphas, max_new_tokens=6
        )
        with steerer.bare():
            bare = run(loaded, inputs).logits[:, -1]
        with steerer.guard(
            prompt_length=inputs["input_ids"].shape[1], alpha=alphas, rows=3
        ):
            moved = run(loaded, inputs).logits[:, -1] - bare
        # Rows beyond the first are steered too, and more the larger their dose.
        distances = moved.norm(dim=1).tolist()
        assert 0 < distances[0] < distances[1] < distances[2]
        for row, value in enumerate(alphas):
            alone = guarded_decode(
                loaded,
                steerer,
                take_row(loaded, inputs, row),
                alpha=value,
                max_new_tokens=6,
            )
            assert alone[0].token_ids == together[row].token_ids

    def test_alpha_is_updated_in_place(self, qwen: LoadedModel) -> None:
        with Steerer(qwen.decoder, vectors_for(qwen)) as steerer:
            with steerer.guard(prompt_length=3, alpha=0.1, rows=2):
                (first,) = steerer._alphas.values()
            with steerer.guard(prompt_length=3, alpha=[0.2, 0.4], rows=2):
                (second,) = steerer._alphas.values()
            assert first is second
            torch.testing.assert_close(second, torch.tensor([[0.2], [0.4]]))

    def test_extra_rows_are_refused(self, qwen: LoadedModel) -> None:
        inputs = ask(qwen, "One.")
        with (
            Steerer(qwen.decoder, vectors_for(qwen)) as steerer,
            steerer.guard(
                prompt_length=inputs["input_ids"].shape[1], alpha=ALPHA, rows=1
            ),
            pytest.raises(SteeringNotAppliedError, match="2 rows"),
        ):
            qwen.model.generate(**inputs, num_beams=2, max_new_tokens=2)


def take_row(
    loaded: LoadedModel, inputs: dict[str, Tensor], row: int
) -> dict[str, Tensor]:
    kept = inputs["attention_mask"][row].bool()
    return {
        name: value[row : row + 1, kept]
        if name in ("input_ids", "attention_mask")
        else value[row : row + 1]
        for name, value in inputs.items()
    }


class TestNobodyAnswersUnsteered:
    def test_generate_is_refused(self, loaded: LoadedModel, steerer: Steerer) -> None:
        with pytest.raises(SteeringNotAppliedError, match="called directly"):
            loaded.model.generate(**ask(loaded, "One."), max_new_tokens=2)

    def test_forward_is_refused(self, loaded: LoadedModel, steerer: Steerer) -> None:
        with pytest.raises(SteeringNotAppliedError, match="called directly"):
            run(loaded, ask(loaded, "One."))

    def test_a_layer_alone_is_refused(self, qwen: LoadedModel) -> None:
        with (
            Steerer(qwen.decoder, vectors_for(qwen)) as steerer,
            steerer.guard(prompt_length=1, alpha=ALPHA, rows=1),
            pytest.raises(SteeringNotAppliedError, match="without a forward pass"),
        ):
            steerer._steer(
                0, nn.Identity(), (), torch.zeros(1, 1, qwen.decoder.hidden_size)
            )

    def test_bare_runs_unsteered_and_ends(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "One.")
        steerer.detach()
        expected = run(loaded, inputs).logits
        steerer.attach()
        with steerer.bare():
            assert torch.equal(run(loaded, inputs).logits, expected)
        with pytest.raises(SteeringNotAppliedError):
            run(loaded, inputs)

    def test_a_failed_request_leaves_the_guard_up(self, qwen: LoadedModel) -> None:
        with Steerer(qwen.decoder, vectors_for(qwen)) as steerer:
            with (
                pytest.raises(KeyError),
                steerer.guard(prompt_length=3, alpha=ALPHA, rows=1),
            ):
                raise KeyError
            with pytest.raises(SteeringNotAppliedError):
                run(qwen, {"input_ids": torch.tensor([[1, 2]])})

    def test_detaching_gives_the_model_back(self, qwen: LoadedModel) -> None:
        inputs = ask(qwen, "One.")
        before = run(qwen, inputs).logits
        steerer = Steerer(qwen.decoder, vectors_for(qwen))
        steerer.attach()
        steerer.detach()
        assert not steerer.attached
        assert torch.equal(run(qwen, inputs).logits, before)

    @pytest.mark.parametrize("alpha", [0.0, -0.1, float("nan"), float("inf")])
    def test_an_alpha_of_zero_is_refused(self, qwen: LoadedModel, alpha: float) -> None:
        with (
            Steerer(qwen.decoder, vectors_for(qwen)) as steerer,
            pytest.raises(ConfigurationError, match="alpha"),
            steerer.guard(prompt_length=3, alpha=[0.1, alpha], rows=2),
        ):
            pass

    def test_alpha_matches_rows(self, qwen: LoadedModel) -> None:
        with (
            Steerer(qwen.decoder, vectors_for(qwen)) as steerer,
            pytest.raises(ConfigurationError, match="2 values of alpha for 3 rows"),
            steerer.guard(prompt_length=3, alpha=[0.1, 0.2], rows=3),
        ):
            pass

    def test_requests_do_not_nest(self, qwen: LoadedModel) -> None:
        with (
            Steerer(qwen.decoder, vectors_for(qwen)) as steerer,
            steerer.guard(prompt_length=3, alpha=0.1, rows=1),
            pytest.raises(SteeringError, match="busy"),
            steerer.bare(),
        ):
            pass


class TestSilentUnsteering:
    """Ways in which other libraries have answered unsteered without a word."""

    @pytest.mark.parametrize("victim", [0, 1, 2])
    def test_a_hook_removed_during_a_request_is_noticed(
        self, loaded: LoadedModel, steerer: Steerer, victim: int
    ) -> None:
        inputs = ask(loaded, "One.")
        hooks = loaded.decoder.layers[victim]._forward_hooks
        guard = steerer.guard(
            prompt_length=inputs["input_ids"].shape[1], alpha=ALPHA, rows=1
        )
        with guard as receipt:
            hooks.clear()
            run(loaded, inputs)
        with pytest.raises(SteeringRemovedError, match="1 of 4"):
            steerer.verify(receipt, output_tokens=1)

    def test_hooks_removed_between_requests_are_noticed(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        for layer in loaded.decoder.layers:
            layer._forward_hooks.clear()
        with pytest.raises(SteeringRemovedError, match="3 of 4"):
            guarded_decode(
                loaded, steerer, ask(loaded, "One."), alpha=ALPHA, max_new_tokens=2
            )

    def test_a_hook_missing_for_one_step_is_noticed(self, qwen: LoadedModel) -> None:
        inputs = ask(qwen, "One.")
        length = inputs["input_ids"].shape[1]
        layer = qwen.decoder.layers[1]
        with Steerer(qwen.decoder, vectors_for(qwen)) as steerer:
            with steerer.guard(prompt_length=length, alpha=ALPHA, rows=1) as receipt:
                output = run(qwen, inputs, use_cache=True)
                kept = dict(layer._forward_hooks)
                layer._forward_hooks.clear()
                step = {"input_ids": torch.tensor([[5]])}
                run(qwen, step, **passing_cache(returned_cache(output)))
                layer._forward_hooks.update(kept)
            with pytest.raises(SteeringNotAppliedError, match=r"found \[2, 1, 2\]"):
                steerer.verify(receipt, output_tokens=2)

    def test_changed_vectors_are_noticed(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        steerer._vectors[1].zero_()
        with pytest.raises(SteeringRemovedError, match="were changed"):
            guarded_decode(
                loaded, steerer, ask(loaded, "One."), alpha=ALPHA, max_new_tokens=2
            )

    def test_vectors_are_copies(self, qwen: LoadedModel) -> None:
        given = vectors_for(qwen)
        with Steerer(qwen.decoder, given) as steerer:
            given.zero_()
            guarded_decode(
                qwen, steerer, ask(qwen, "One."), alpha=ALPHA, max_new_tokens=2
            )

    def test_vectors_have_to_have_the_digest(self, qwen: LoadedModel) -> None:
        with pytest.raises(SteeringRemovedError, match="digest"):
            Steerer(qwen.decoder, vectors_for(qwen), digest="0" * 64)

    @pytest.mark.parametrize("compiled", ["model", "layer", "forward"])
    def test_a_compiled_model_is_refused(
        self, qwen: LoadedModel, compiled: str
    ) -> None:
        layer = qwen.decoder.layers[1]
        if compiled == "model":
            qwen.model.compile(backend="eager")
        elif compiled == "layer":
            layer.compile(backend="eager")
        else:
            layer.forward = torch.compile(layer.forward, backend="eager")
        with pytest.raises(ConfigurationError, match="compiled"):
            Steerer(qwen.decoder, vectors_for(qwen)).attach()

    def test_a_second_steerer_is_refused(self, qwen: LoadedModel) -> None:
        with (
            Steerer(qwen.decoder, vectors_for(qwen)),
            pytest.raises(SteeringError, match="guarded already"),
        ):
            Steerer(qwen.decoder, vectors_for(qwen)).attach()

    def test_the_first_is_free_after_a_refused_second(self, qwen: LoadedModel) -> None:
        with Steerer(qwen.decoder, vectors_for(qwen)) as first:
            second = Steerer(qwen.decoder, vectors_for(qwen))
            with pytest.raises(SteeringError):
                second.attach()
            second.detach()
            guarded_decode(
                qwen, first, ask(qwen, "One."), alpha=ALPHA, max_new_tokens=2
            )

    def test_overflow_is_noticed(self, qwen: LoadedModel) -> None:
        huge = vectors_for(qwen) * 1e37
        with (
            Steerer(qwen.decoder, huge) as steerer,
            pytest.raises(NonFiniteActivationError, match="NaN"),
        ):
            guarded_decode(
                qwen, steerer, ask(qwen, "One."), alpha=1e3, max_new_tokens=2
            )

    @pytest.mark.parametrize("tokens", [0, 1, 3])
    def test_a_receipt_covers_the_tokens_exactly(
        self, qwen: LoadedModel, tokens: int
    ) -> None:
        inputs = ask(qwen, "One.")
        length = inputs["input_ids"].shape[1]
        with Steerer(qwen.decoder, vectors_for(qwen)) as steerer:
            with steerer.guard(prompt_length=length, alpha=ALPHA, rows=1) as receipt:
                output = run(qwen, inputs, use_cache=True)
                step = {"input_ids": torch.tensor([[5]])}
                run(qwen, step, **passing_cache(returned_cache(output)))
            steerer.verify(receipt, output_tokens=2)
            with pytest.raises(SteeringNotAppliedError):
                steerer.verify(receipt, output_tokens=tokens)

    def test_a_captured_state_is_the_steered_one(self, qwen: LoadedModel) -> None:
        # A reader that was there before the steerer must not see bare states.
        inputs = ask(qwen, "One.")
        length = inputs["input_ids"].shape[1]
        bare = first_layer(qwen, lambda: run(qwen, inputs))[:, -1]
        seen: list[Tensor] = []
        qwen.decoder.layers[0].register_forward_hook(
            lambda _m, _a, out: seen.append(out[:, -1].clone())
        )
        with (
            Steerer(qwen.decoder, vectors_for(qwen)) as steerer,
            steerer.guard(prompt_length=length, alpha=ALPHA, rows=1),
        ):
            run(qwen, inputs)
        assert not torch.allclose(seen[0], bare)

    def test_a_layers_own_output_is_left_alone(
        self, qwen: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Some families keep a reference to it and read it again later.
        inputs = ask(qwen, "One.")
        layer = qwen.decoder.layers[0]
        original, kept = layer.forward, []

        def keep(*args: object, **kwargs: object) -> Tensor:
            output = original(*args, **kwargs)
            kept.append((output, output.clone()))
            return output

        monkeypatch.setattr(layer, "forward", keep)
        length = inputs["input_ids"].shape[1]
        with (
            Steerer(qwen.decoder, vectors_for(qwen)) as steerer,
            steerer.guard(prompt_length=length, alpha=ALPHA, rows=1),
        ):
            run(qwen, inputs)
        assert torch.equal(*kept[0])


class TestShapes:
    def test_vectors_of_another_model_are_refused(self, qwen: LoadedModel) -> None:
        with pytest.raises(ConfigurationError, match="another model"):
            Steerer(qwen.decoder, torch.ones(2, qwen.decoder.hidden_size))

    def test_vectors_are_finite(self, qwen: LoadedModel) -> None:
        bad = vectors_for(qwen)
        bad[0, 0] = float("inf")
        with pytest.raises(ConfigurationError, match="NaN or infinity"):
            Steerer(qwen.decoder, bad)

    def test_the_product_is_made_in_float32(self) -> None:
        loaded = tiny.build()
        loaded.model.bfloat16()
        inputs = ask(loaded, "One.")
        vectors = vectors_for(loaded)
        with Steerer(loaded.decoder, vectors) as steerer:
            assert {v.dtype for v in steerer._vectors} == {torch.float32}
            with steerer.bare():
                bare = first_layer(loaded, lambda: run(loaded, inputs))[:, -1]
            with steerer.guard(
                prompt_length=inputs["input_ids"].shape[1], alpha=0.37, rows=1
            ):
                steered = first_layer(loaded, lambda: run(loaded, inputs))[:, -1]
        push = (torch.tensor(0.37) * vectors[0]).bfloat16()
        assert torch.equal(steered[0], bare[0] + push)
