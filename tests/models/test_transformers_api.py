from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, StaticCache

from sarguard import SafeAudioLLM
from sarguard.decoding import guarded_decode
from sarguard.errors import SteeringNotAppliedError
from sarguard.models import transformers_api as api
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.residual import run_and_read
from sarguard.steering.self_test import run_self_test
from sarguard.steering.steerer import Steerer
from tests import tiny
from tests.logs import capture_logs
from tests.steering.test_steerer import ask

UNTESTED = (
    "transformers 5.99.0 is installed, sarguard was tested with 5.23 and 5.24: install "
    "one of them (pip install 'transformers>=5.23,<5.25')"
)


CURRENT = api.cache_name()


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "installed_version", lambda: "5.99.0")


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a release that calls the cache by a name that nobody here knows."""
    unknown = tuple(name for name in api.CACHE_NAMES if name != api.cache_name())
    monkeypatch.setattr(api, "CACHE_NAMES", unknown)


@pytest.fixture
def steerer() -> Iterator[Steerer]:
    with Steerer(tiny.build().decoder, torch.ones(3, 64)) as attached:
        yield attached


class TestVersions:
    def test_this_one_was_tested(self) -> None:
        assert api.is_tested()
        assert api.untested_advice() == ""

    @pytest.mark.parametrize(
        ("version", "tested"),
        [
            ("5.23.0", True),
            ("5.23.4", True),
            ("5.24.0.dev0", True),
            ("5.2.3", False),
            ("5.25.0", False),
            ("6.0", False),
        ],
    )
    def test_a_version_is_known_by_its_first_two_numbers(
        self, version: str, tested: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api, "installed_version", lambda: version)
        assert api.is_tested() is tested

    @pytest.mark.usefixtures("untested")
    def test_the_advice_says_what_to_install(self) -> None:
        assert api.advice() == UNTESTED

    @pytest.mark.usefixtures("untested")
    def test_an_untested_one_is_logged_once(self) -> None:
        api.warn_if_untested.cache_clear()
        with capture_logs() as logs:
            tiny.build()
            tiny.build()
        api.warn_if_untested.cache_clear()
        assert [(log["event"], log["log_level"]) for log in logs] == [
            ("untested transformers", "warning")
        ]
        assert logs[0]["fix"] == "pip install 'transformers>=5.23,<5.25'"

    def test_a_tested_one_is_not_logged(self) -> None:
        api.warn_if_untested.cache_clear()
        with capture_logs() as logs:
            tiny.build()
        assert logs == []

    def test_the_bounds_are_those_of_the_tested_ones(self) -> None:
        first, last = (
            version.split(".") for version in (api.TESTED[0], api.TESTED[-1])
        )
        after = f"{last[0]}.{int(last[1]) + 1}"
        assert f"transformers>={'.'.join(first)},<{after}" == api.REQUIREMENT


class TestPassedCaches:
    @pytest.mark.parametrize("name", ["cache", "past_key_values"])
    def test_both_names_are_read(self, name: str) -> None:
        cache = DynamicCache()
        assert api.passed_cache((), {name: cache, "use_cache": True}) is cache

    @pytest.mark.parametrize(
        "kwargs", [{}, {"cache": None}, {"past_key_values": None, "use_cache": True}]
    )
    def test_none_is_none(self, kwargs: dict[str, Any]) -> None:
        assert api.passed_cache((torch.zeros(1),), kwargs) is None

    def test_two_are_refused(self) -> None:
        one, other = DynamicCache(), DynamicCache()
        both = {"cache": one, "past_key_values": other}
        with pytest.raises(SteeringNotAppliedError, match="two caches"):
            api.passed_cache((), both)
        assert api.passed_cache((), {**both, "past_key_values": one}) is one

    def test_one_of_an_unknown_name_is_named(self) -> None:
        with pytest.raises(SteeringNotAppliedError, match="a cache as memory="):
            api.passed_cache((), {"memory": DynamicCache()})

    def test_one_without_a_name_is_refused(self) -> None:
        with pytest.raises(SteeringNotAppliedError, match="as argument 2"):
            api.passed_cache((torch.zeros(1), DynamicCache()), {})

    def test_it_is_passed_by_the_name_that_raises_no_warning(self) -> None:
        loaded = tiny.shared()
        inputs = ask(loaded, "One.")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            output = loaded.model(**inputs, **api.passing_cache(DynamicCache()))
        length = inputs["input_ids"].shape[1]
        assert api.returned_cache(output).get_seq_length() == length


class TestReturnedCaches:
    def test_an_output_without_one_is_an_error(self) -> None:
        with pytest.raises(SteeringNotAppliedError, match="came without a cache"):
            api.returned_cache(SimpleNamespace(logits=None))

    def test_what_generate_keeps_has_to_hold_one(self) -> None:
        with pytest.raises(SteeringNotAppliedError, match="prepared no cache"):
            api.kept_cache({"attention_mask": torch.ones(1, 2)})

    @pytest.mark.parametrize("name", ["cache", "past_key_values"])
    def test_it_is_kept_under_the_name_that_is_there(self, name: str) -> None:
        kwargs, cache = {name: DynamicCache()}, DynamicCache()
        api.keep_cache(kwargs, cache)
        assert kwargs == {name: cache}

    def test_calibration_needs_one(self) -> None:
        loaded = tiny.build()
        inputs = ask(loaded, "One.")
        loaded.decoder.backbone.register_forward_hook(
            lambda _m, _a, out: SimpleNamespace(last=out.last_hidden_state)
        )
        with pytest.raises(SteeringNotAppliedError, match="came without a cache"):
            run_and_read(loaded.decoder, inputs, use_cache=True)

    def test_a_static_one_cannot_lose_tokens(self) -> None:
        config = PreTrainedConfig(
            num_hidden_layers=1, hidden_size=4, num_attention_heads=1
        )
        assert not api.is_croppable(StaticCache(config, max_cache_len=4))
        assert api.is_croppable(DynamicCache())


class TestPrivateNames:
    def test_a_missing_one_is_named(self) -> None:
        model = nn.Linear(1, 1)
        for call in (
            lambda: api.prefill(model, torch.zeros(1), None, {}),  # type: ignore[arg-type]
            lambda: api.decoding(model),
            lambda: api.after_pass(model, None, {}),
            lambda: api.run_last_token(model, torch.zeros(1), {}),
        ):
            with pytest.raises(SteeringNotAppliedError, match=r"Linear has no \w+\(\)"):
                call()


class TestForwardPasses:
    def step(self, steerer: Steerer, **options: Any) -> None:  # noqa: ANN401
        model = steerer._decoder.root
        with torch.no_grad():
            model(input_ids=torch.tensor([[5]]), **options)

    def test_an_answer_that_goes_on_needs_a_cache(self, steerer: Steerer) -> None:
        ids = torch.arange(4)[None]
        with steerer.guard(prompt_length=4, alpha=0.1, rows=1), torch.no_grad():
            steerer._decoder.root(input_ids=ids)
            with pytest.raises(SteeringNotAppliedError, match="came without a cache"):
                self.step(steerer)

    def test_a_mask_over_more_tokens_needs_a_cache(self, steerer: Steerer) -> None:
        with (
            steerer.guard(prompt_length=4, alpha=0.1, rows=1),
            pytest.raises(SteeringNotAppliedError, match="came without a cache"),
        ):
            self.step(steerer, attention_mask=torch.ones(1, 4, dtype=torch.long))

    def test_a_cache_of_an_unknown_name_is_an_error(self, steerer: Steerer) -> None:
        owner = steerer._decoder.owner
        with (
            steerer.guard(prompt_length=4, alpha=0.1, rows=1),
            pytest.raises(SteeringNotAppliedError, match="as memory="),
        ):
            owner(input_ids=torch.tensor([[5]]), memory=DynamicCache())


class TestARelease:
    """Be one that renamed the cache again, and show that everything says so."""

    @pytest.mark.usefixtures("untested", "renamed")
    def test_a_client_is_not_opened(self, tiny_bundle: SteeringBundle) -> None:
        loaded = tiny.shared()
        with pytest.raises(SteeringNotAppliedError, match=re.escape(UNTESTED)):
            SafeAudioLLM.from_loaded(loaded, tiny_bundle, alpha=0.1)

    @pytest.mark.usefixtures("renamed")
    def test_decoding_says_which_name_is_missing(self) -> None:
        loaded = tiny.build()
        inputs = ask(loaded, "One.")
        with (
            Steerer(loaded.decoder, torch.ones(3, 64)) as attached,
            pytest.raises(SteeringNotAppliedError, match=f"as {CURRENT}="),
        ):
            guarded_decode(loaded, attached, inputs, alpha=0.1, max_new_tokens=2)

    @pytest.mark.usefixtures("renamed")
    def test_the_name_is_not_guessed(self) -> None:
        with pytest.raises(SteeringNotAppliedError, match="none of the fields"):
            api.cache_name()

    @pytest.mark.usefixtures("untested")
    def test_counts_that_are_wrong_come_with_the_advice(self) -> None:
        loaded = tiny.build()
        with (
            Steerer(loaded.decoder, torch.zeros(3, 64)) as attached,
            pytest.raises(SteeringNotAppliedError, match=re.escape(UNTESTED)),
        ):
            run_self_test(loaded, attached, alpha=0.1)
        with Steerer(loaded.decoder, torch.ones(3, 64)) as attached:
            with attached.guard(prompt_length=3, alpha=0.1, rows=1) as receipt:
                pass
            with pytest.raises(SteeringNotAppliedError, match=re.escape(UNTESTED)):
                attached.verify(receipt, output_tokens=1)
