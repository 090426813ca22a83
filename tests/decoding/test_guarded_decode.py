from __future__ import annotations

import pytest
import torch

from sarguard.decoding import Sampling, guarded_decode, stop_tokens
from sarguard.errors import ConfigurationError, InvalidRequestError, SteeringError
from sarguard.models.loading import LoadedModel
from sarguard.steering.steerer import Steerer
from tests.tiny import ask


def test_an_answer_stops_at_its_length(loaded: LoadedModel, steerer: Steerer) -> None:
    (decoded,) = guarded_decode(
        loaded, steerer, ask(loaded, "Hi."), alpha=0.1, max_new_tokens=5
    )
    assert decoded.ending == "length"
    assert len(decoded.token_ids) == decoded.output_tokens == 5
    assert decoded.steered_positions == 5


def test_an_answer_stops_at_the_models_stop_token(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    inputs = ask(loaded, "Hi.")
    (whole,) = guarded_decode(loaded, steerer, inputs, alpha=0.1, max_new_tokens=8)
    stop = whole.token_ids[3]
    loaded.model.generation_config.eos_token_id = [loaded.tokenizer.eos_token_id, stop]
    (cut,) = guarded_decode(loaded, steerer, inputs, alpha=0.1, max_new_tokens=8)
    end = whole.token_ids.index(stop)
    assert cut.ending == "stop"
    assert cut.token_ids == whole.token_ids[:end]
    # The token that ends the answer was chosen too, from a steered state.
    assert cut.output_tokens == cut.steered_positions == end + 1


def test_rows_of_a_batch_stop_on_their_own(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    inputs = ask(loaded, "Hi.", "What is this sound?")
    both = guarded_decode(loaded, steerer, inputs, alpha=0.1, max_new_tokens=8)
    only_first = [t for t in both[0].token_ids if t not in both[1].token_ids]
    assert only_first, "the two rows say the same: choose another seed"
    loaded.model.generation_config.eos_token_id = only_first[0]
    first, second = guarded_decode(loaded, steerer, inputs, alpha=0.1, max_new_tokens=8)
    assert (first.ending, second.ending) == ("stop", "length")
    assert first.output_tokens < second.output_tokens == 8
    assert second.token_ids == both[1].token_ids


def test_the_tokenizer_knows_the_stop_token_if_the_model_does_not(
    loaded: LoadedModel,
) -> None:
    loaded.model.generation_config.eos_token_id = None
    assert stop_tokens(loaded) == (loaded.tokenizer.eos_token_id,)


def test_greedy_ignores_the_models_sampling_defaults(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    inputs = ask(loaded, "Hi.")
    expected = guarded_decode(loaded, steerer, inputs, alpha=0.1, max_new_tokens=6)
    config = loaded.model.generation_config
    config.do_sample, config.temperature, config.top_k = True, 5.0, 3
    config.repetition_penalty = 1.9
    found = guarded_decode(loaded, steerer, inputs, alpha=0.1, max_new_tokens=6)
    assert found[0].token_ids == expected[0].token_ids


class TestSampling:
    def test_a_seed_repeats_an_answer(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "Hi.")
        answers = [
            guarded_decode(
                loaded,
                steerer,
                inputs,
                alpha=0.1,
                max_new_tokens=12,
                sampling=Sampling(temperature=3.0, seed=seed),
            )[0].token_ids
            for seed in (1, 1, 2)
        ]
        assert answers[0] == answers[1] != answers[2]

    def test_the_callers_random_state_is_left_alone(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        guarded_decode(
            loaded,
            steerer,
            ask(loaded, "Hi."),
            alpha=0.1,
            max_new_tokens=3,
            sampling=Sampling(temperature=1.0, seed=3),
        )
        assert torch.equal(torch.rand(3), expected)

    def test_a_tiny_top_p_is_greedy(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "Hi.")
        greedy = guarded_decode(loaded, steerer, inputs, alpha=0.1, max_new_tokens=6)
        sampled = guarded_decode(
            loaded,
            steerer,
            inputs,
            alpha=0.1,
            max_new_tokens=6,
            sampling=Sampling(temperature=1.0, top_p=1e-6),
        )
        assert sampled[0].token_ids == greedy[0].token_ids

    @pytest.mark.parametrize(
        "settings",
        [
            {"temperature": -1.0},
            {"temperature": float("nan")},
            {"top_p": 0.0},
            {"top_p": 1.1},
        ],
    )
    def test_settings_are_checked(self, settings: dict[str, float]) -> None:
        with pytest.raises(InvalidRequestError, match=next(iter(settings))):
            Sampling(**settings)  # type: ignore[arg-type]


class TestRefusedDecoding:
    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("use_cache", False),
            ("prompt_lookup_num_tokens", 3),
            ("assistant_early_exit", 1),
            ("prefill_chunk_size", 4),
            ("dola_layers", "low"),
            ("guidance_scale", 1.5),
        ],
    )
    def test_speculative_and_cacheless_decoding(
        self, loaded: LoadedModel, steerer: Steerer, setting: str, value: object
    ) -> None:
        setattr(loaded.model.generation_config, setting, value)
        with pytest.raises(ConfigurationError, match=setting):
            guarded_decode(
                loaded, steerer, ask(loaded, "Hi."), alpha=0.1, max_new_tokens=2
            )

    def test_beams_in_the_models_defaults_are_not_used(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        loaded.model.generation_config.num_beams = 3
        (decoded,) = guarded_decode(
            loaded, steerer, ask(loaded, "Hi."), alpha=0.1, max_new_tokens=2
        )
        assert decoded.steered_positions == 2

    def test_a_static_cache_stays_steered(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        inputs = ask(loaded, "Hi.")
        expected = guarded_decode(loaded, steerer, inputs, alpha=0.3, max_new_tokens=5)
        loaded.model.generation_config.cache_implementation = "static"
        found = guarded_decode(loaded, steerer, inputs, alpha=0.3, max_new_tokens=5)
        assert found[0].token_ids == expected[0].token_ids

    def test_no_tokens_is_no_answer(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        with pytest.raises(InvalidRequestError, match="max_new_tokens is 0"):
            guarded_decode(
                loaded, steerer, ask(loaded, "Hi."), alpha=0.1, max_new_tokens=0
            )

    def test_a_steerer_that_is_not_attached_answers_nothing(
        self, loaded: LoadedModel, steerer: Steerer
    ) -> None:
        steerer.detach()
        with pytest.raises(SteeringError, match="4 of 4"):
            guarded_decode(
                loaded, steerer, ask(loaded, "Hi."), alpha=0.1, max_new_tokens=2
            )
