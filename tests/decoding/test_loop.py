from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from sarguard.decoding import Row, Sampling, decode_rows, guarded_decode
from sarguard.decoding.loop import divergence
from sarguard.errors import SteeringNotAppliedError, SteeringRemovedError
from sarguard.models.loading import LoadedModel
from sarguard.steering.dose import DoseRule, DoseSpec
from sarguard.steering.residual import last_states
from sarguard.steering.steerer import Steerer
from tests import tiny
from tests.tiny import ask

TEXTS = ("Hi.", "What is this sound?", "And now?")


def conditioned(
    alpha: float, *, blocked: bool = False, shadow: bool = False
) -> DoseSpec:
    """Return a dose that asks for a score, and whatever it is decides the same."""
    rule = DoseRule(
        floor=alpha, ceiling=alpha, low=-1.0, high=1.0, block=0.0 if blocked else 9.0
    )
    return DoseSpec(rule=rule, shadow=shadow)


class Scorer:
    """A gate that keeps the states it is asked about."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def __call__(self, states: Tensor, _kind: str) -> Tensor:
        self.states.append(states)
        return torch.full((states.shape[1],), 0.5)


@contextmanager
def positions(loaded: LoadedModel) -> Iterator[list[int]]:
    """Yield how many positions of each row every forward pass gives logits of."""
    found: list[int] = []
    layer = loaded.model.get_output_embeddings()
    handle = layer.register_forward_hook(lambda *run: found.append(run[2].shape[1]))
    yield found
    handle.remove()


def constant(alpha: float, tokens: int = 6) -> Row:
    return Row(dose=DoseSpec.constant(alpha), max_new_tokens=tokens)


class TestDosing:
    @pytest.mark.parametrize("family", ["qwen2_audio", "audioflamingo3", "glmasr"])
    @pytest.mark.parametrize("cache", [None, "static"])
    def test_a_dose_that_looks_first_gives_the_same_answer(
        self, family: str, cache: str | None
    ) -> None:
        loaded = tiny.build(family)
        loaded.model.generation_config.cache_implementation = cache
        inputs = ask(loaded, *TEXTS)
        vectors = torch.randn(
            (len(loaded.decoder), loaded.decoder.hidden_size),
            generator=torch.Generator().manual_seed(1),
        )
        with Steerer(loaded.decoder, vectors) as steerer:
            plain = guarded_decode(
                loaded, steerer, inputs, alpha=[0.1, 0.3, 0.6], max_new_tokens=6
            )
            rows = [
                Row(dose=conditioned(alpha), max_new_tokens=6)
                for alpha in (0.1, 0.3, 0.6)
            ]
            decode_rows(loaded, steerer, inputs, rows, score=Scorer())
        assert [row.token_ids for row in rows] == [row.token_ids for row in plain]

    def test_the_dose_sees_the_clean_states(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, *TEXTS[:2])
        scorer = Scorer()
        rows = [Row(dose=conditioned(a), max_new_tokens=2) for a in (0.5, 0.1)]
        decode_rows(loaded, steerer, inputs, rows, score=scorer)
        with steerer.bare():
            expected = last_states(loaded.decoder, inputs)
        assert len(scorer.states) == len(rows)
        for index, states in enumerate(scorer.states):
            torch.testing.assert_close(
                states, expected[:, index : index + 1], rtol=1e-4, atol=1e-4
            )

    def test_a_dose_that_needs_a_score_fails_without_a_gate(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        row = Row(dose=conditioned(0.3), max_new_tokens=2)
        with pytest.raises(SteeringNotAppliedError, match="give the engine"):
            decode_rows(loaded, steerer, ask(loaded, "Hi."), [row])
        assert row.output_tokens == 0

    def test_a_blocked_row_says_nothing_and_its_neighbour_all(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, *TEXTS[:2])
        rows = [
            Row(dose=conditioned(0.3, blocked=True), max_new_tokens=4),
            Row(dose=conditioned(0.3), max_new_tokens=4),
        ]
        decode_rows(loaded, steerer, inputs, rows, score=Scorer())
        expected = guarded_decode(loaded, steerer, inputs, alpha=0.3, max_new_tokens=4)
        assert (rows[0].ending, rows[0].token_ids) == ("blocked", [])
        assert rows[1].token_ids == expected[1].token_ids

    def test_where_all_are_blocked_no_step_is_made(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        row = Row(dose=conditioned(0.3, blocked=True), max_new_tokens=4)
        steps: list[int] = []
        decode_rows(
            loaded,
            steerer,
            ask(loaded, "Hi."),
            [row],
            score=Scorer(),
            after_step=lambda: steps.append(1),
        )
        assert (row.ending, row.output_tokens, steps) == ("blocked", 0, [])


class TestComparing:
    def test_only_rows_that_ask_for_it_are_compared(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, *TEXTS)
        wishes = (True, False, True)
        rows = [
            Row(dose=conditioned(0.4, shadow=wish), max_new_tokens=3) for wish in wishes
        ]
        decode_rows(loaded, steerer, inputs, rows, score=Scorer())
        assert [row.divergence is not None for row in rows] == list(wishes)
        with steerer.bare(), torch.no_grad():
            bare = loaded.model(**inputs).logits[:, -1]
        with steerer.guard(
            prompt_length=inputs["input_ids"].shape[1], alpha=0.4, rows=3
        ):
            steered = loaded.model(**inputs).logits[:, -1]
        for row, expected in zip(rows, divergence(bare, steered), strict=True):
            if row.divergence is not None:
                assert row.divergence == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize(("shadow", "clean"), [(False, 0), (True, 1)])
    def test_no_logits_are_computed_that_nobody_reads(
        self, loaded: LoadedModel, steerer: Steerer, shadow: bool, clean: int
    ) -> None:
        row = Row(dose=conditioned(0.4, shadow=shadow), max_new_tokens=2)
        with positions(loaded) as dosed:
            decode_rows(loaded, steerer, ask(loaded, "Hi."), [row], score=Scorer())
        with positions(loaded) as constantly:
            decode_rows(loaded, steerer, ask(loaded, "Hi."), [constant(0.4, tokens=2)])
        assert (dosed, constantly) == ([clean, 1, 1], [1, 1])


class TestStepping:
    def test_a_row_that_is_ended_frees_the_model_at_once(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        row = constant(0.1, tokens=50)
        calls: list[int] = []
        loaded.decoder.owner.register_forward_pre_hook(lambda *_: calls.append(1))

        def stop_after_three() -> None:
            if row.output_tokens == 3:
                row.end("dropped")

        decode_rows(
            loaded, steerer, ask(loaded, "Hi."), [row], after_step=stop_after_three
        )
        assert (row.output_tokens, len(calls)) == (3, 3)

    def test_no_token_is_taken_from_a_step_that_was_not_proven(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        row = constant(0.1, tokens=9)
        counts: list[int] = []
        layer = loaded.decoder.layers[1]

        def sabotage() -> None:
            counts.append(row.output_tokens)
            if row.output_tokens == 3:
                layer._forward_hooks.clear()

        with pytest.raises((SteeringRemovedError, SteeringNotAppliedError)):
            decode_rows(loaded, steerer, ask(loaded, "Hi."), [row], after_step=sabotage)
        assert counts == [1, 2, 3]
        assert row.output_tokens == 3

    @pytest.mark.parametrize("what", ["vectors", "alpha"])
    def test_a_change_between_two_steps_is_noticed_at_the_next(
        self, loaded: LoadedModel, steerer: Steerer, what: str
    ) -> None:
        row = constant(0.1, tokens=9)

        def sabotage() -> None:
            if row.output_tokens == 2 and what == "vectors":
                steerer._vectors[0][0] += 1
            if row.output_tokens == 2 and what == "alpha":
                next(iter(steerer._alphas.values())).zero_()

        with pytest.raises(SteeringRemovedError, match="changed"):
            decode_rows(loaded, steerer, ask(loaded, "Hi."), [row], after_step=sabotage)
        assert row.output_tokens == 2

    def test_one_unhealthy_row_does_not_spoil_its_neighbour(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, *TEXTS[:2])
        expected = guarded_decode(loaded, steerer, inputs, alpha=0.1, max_new_tokens=4)

        def poison(_m: object, _a: object, output: Tensor) -> Tensor:
            spoilt = output.clone()
            spoilt[0, -1] = float("nan")
            return spoilt

        layer = loaded.decoder.layers[0]
        handle = layer.register_forward_hook(poison)
        rows = [constant(0.1, tokens=4), constant(0.1, tokens=4)]
        decode_rows(loaded, steerer, inputs, rows)
        handle.remove()
        assert (rows[0].ending, rows[0].token_ids) == ("unhealthy", [])
        assert rows[1].token_ids == expected[1].token_ids

    def test_an_error_between_steps_leaves_the_steerer_free(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        def fail() -> None:
            raise KeyError("boom")

        with pytest.raises(KeyError, match="boom"):
            decode_rows(
                loaded,
                steerer,
                ask(loaded, "Hi."),
                [constant(0.1)],
                after_step=fail,
            )
        decode_rows(loaded, steerer, ask(loaded, "Hi."), [constant(0.1)])


class TestSamplingAlone:
    def test_rows_of_a_batch_sample_as_if_alone(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        samplings = [
            Sampling(temperature=2.0, seed=7),
            Sampling(temperature=1.0, top_k=5, top_p=0.9, seed=8),
            Sampling(repetition_penalty=1.7),
        ]

        def rows() -> list[Row]:
            return [
                Row(dose=DoseSpec.constant(a), max_new_tokens=10, sampling=sampling)
                for a, sampling in zip((0.1, 0.2, 0.3), samplings, strict=True)
            ]

        together = rows()
        decode_rows(loaded, steerer, ask(loaded, *TEXTS), together)
        for row, other, text in zip(rows(), together, TEXTS, strict=True):
            decode_rows(loaded, steerer, ask(loaded, text), [row])
            assert row.token_ids == other.token_ids

    def test_a_repetition_penalty_is_the_librarys(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        row = Row(
            dose=DoseSpec.constant(0.1),
            max_new_tokens=8,
            sampling=Sampling(repetition_penalty=1.7),
        )
        inputs = ask(loaded, "Hi.")
        decode_rows(loaded, steerer, inputs, [row])
        length = inputs["input_ids"].shape[1]
        with steerer.guard(prompt_length=length, alpha=0.1, rows=1):
            whole = loaded.model.generate(
                **inputs, max_new_tokens=8, do_sample=False, repetition_penalty=1.7
            )
        assert row.token_ids == whole[0, length : length + 8].tolist()


def test_divergence_is_nothing_for_equals_and_one_bit_for_strangers() -> None:
    ours = torch.tensor([[0.0, 0.0, -1e9, -1e9], [3.0, 1.0, 0.0, -2.0]])
    theirs = torch.tensor([[-1e9, -1e9, 0.0, 0.0], [4.0, 2.0, 1.0, -1.0]])
    assert divergence(ours, theirs) == pytest.approx([1.0, 0.0], abs=1e-9)
    assert divergence(ours, theirs) == divergence(theirs, ours)


def test_divergence_is_that_of_jensen_and_shannon() -> None:
    p, q = (
        torch.tensor([0.7, 0.2, 0.1]).double(),
        torch.tensor([0.1, 0.3, 0.6]).double(),
    )
    middle = (p + q) / 2
    expected = ((p * (p / middle).log2()).sum() + (q * (q / middle).log2()).sum()) / 2
    found = divergence(p.log()[None], q.log()[None])
    assert found == pytest.approx([float(expected)])
