"""Classifiers and moderation callables as text guards, and what a guard reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sarguard.client import SafeAudioLLM
from sarguard.errors import CheckFailedError, ConfigurationError
from sarguard.guard.checks import ALLOW, CheckResult, InputView
from sarguard.opinions import (
    TextMessage,
    classifier_guard,
    moderation_guard,
    text_guard,
)
from sarguard.opinions.moderation import read_moderation
from sarguard.serving.request import RequestContext
from sarguard.types import Outcome, Turn
from tests.opinions import tiny_guards as tiny
from tests.opinions.test_chat_guards import said

Score = Callable[[str], float]


def view(*turns: Turn, hear: Any = None) -> InputView:  # noqa: ANN401
    return InputView(turns, RequestContext(), sample_rate=16_000, transcriber=hear)


CLIP = np.ones(8, np.float32)


class TestWhatIsRead:
    def judged(self, *turns: Turn, reads: int) -> list[tuple[str, str]]:
        seen: list[tuple[TextMessage, ...]] = []

        def judge(messages: tuple[TextMessage, ...]) -> CheckResult:
            seen.append(messages)
            return ALLOW

        check = text_guard("probe", judge, version="1", turns=reads)
        assert check.run(view(*turns, hear=lambda clip, rate: "spoken")) is ALLOW
        return [(message.role, message.text) for message in seen[0]] if seen else []

    def test_the_newest_turn_is_its_transcript_and_its_text(self) -> None:
        turns = (
            Turn(role="system", text="Be kind."),
            Turn(role="user", text="First.", audio=(CLIP,)),
            Turn(role="assistant", text="Answer."),
            Turn(role="user", text="Second.", audio=(CLIP, CLIP / 2)),
        )
        newest = ("user", "spoken\nspoken\nSecond.")
        assert self.judged(*turns, reads=1) == [newest]
        assert self.judged(*turns, reads=9) == [
            ("user", "spoken\nFirst."),
            ("assistant", "Answer."),
            newest,
        ]

    def test_nothing_said_is_not_judged(self) -> None:
        assert self.judged(Turn(role="user", text=" "), reads=1) == []

    def test_a_guard_reads_something(self) -> None:
        with pytest.raises(ConfigurationError, match="turns"):
            text_guard("probe", lambda messages: ALLOW, version="1", turns=0)


@pytest.fixture(scope="module")
def classifier() -> tuple[Any, Any]:
    """Return a tiny BERT of three labels, and its tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    words = tiny.tokenizer("llama", None)
    words.model_max_length = 64
    torch.manual_seed(0)
    model: Any = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            id2label={0: "fine", 1: "violent", 2: "illegal"},
            label2id={"fine": 0, "violent": 1, "illegal": 2},
        )
    ).eval()
    return model, words


class TestClassifier:
    def test_the_score_is_the_probability_of_the_harmful_labels(
        self, classifier: tuple[Any, Any]
    ) -> None:
        model, words = classifier
        inputs = words("Burn it.", return_tensors="pt")
        with torch.no_grad():
            likely = torch.softmax(model(**inputs).logits[0], 0)
        check = classifier_guard(
            model, tokenizer=words, harmful=["violent", "illegal"], threshold=0.0
        )
        found = said(check, "Burn it.")
        assert found.score == pytest.approx(float(likely[1] + likely[2]), abs=1e-5)
        assert found.blocked
        assert found.label == ["violent", "illegal"][int(likely[1:].argmax())]
        calm = classifier_guard(
            model, tokenizer=words, harmful=["violent"], threshold=0.999
        )
        assert not said(calm, "Burn it.").blocked

    def test_a_long_text_is_read_to_its_end(self, classifier: tuple[Any, Any]) -> None:
        model, words = classifier
        check = classifier_guard(model, tokenizer=words, harmful=["violent"])
        scores = {
            text: said(check, text).score for text in ("Burn it. " * 30, "Burn it. ")
        }
        filler = "x" * 150
        hidden = said(check, f"{filler}{'unsafe' * 50}").score
        assert hidden is not None
        whole = max(said(check, filler).score or 0.0, said(check, "unsafe" * 50).score)
        assert hidden >= whole - 0.05
        assert all(score is not None for score in scores.values())

    def test_a_broken_classifier_has_not_passed(
        self, classifier: tuple[Any, Any]
    ) -> None:
        import copy

        model = copy.deepcopy(classifier[0])
        with torch.no_grad():
            model.classifier.weight.fill_(float("nan"))
        check = classifier_guard(model, tokenizer=classifier[1], harmful=["violent"])
        with pytest.raises(ConfigurationError, match="finite"):
            said(check, "Hello.")

    @pytest.mark.parametrize("harmful", [[], ["toxic"]])
    def test_its_labels_are_known(
        self, classifier: tuple[Any, Any], harmful: list[str]
    ) -> None:
        with pytest.raises(ConfigurationError, match="fine, violent, illegal"):
            classifier_guard(classifier[0], tokenizer=classifier[1], harmful=harmful)


FLAGGED = {
    "id": "modr-1",
    "model": "omni-moderation-latest",
    "results": [
        {
            "flagged": True,
            "categories": {"violence": True, "self-harm/intent": False},
            "category_scores": {"violence": 0.91, "self-harm/intent": 0.02},
        }
    ],
}
CALM = {
    "results": [
        {
            "flagged": False,
            "categories": {"violence": False},
            "category_scores": {"violence": 0.01},
        }
    ]
}


def as_objects(value: Any) -> Any:  # noqa: ANN401
    """Return a response as the objects that a client library makes of it."""
    if isinstance(value, dict):
        return SimpleNamespace(**{k: as_objects(v) for k, v in value.items()})
    return [as_objects(v) for v in value] if isinstance(value, list) else value


class TestModeration:
    @pytest.mark.parametrize("shape", [lambda value: value, as_objects])
    @pytest.mark.parametrize("later", [False, True])
    def test_it_flags_where_the_response_does(
        self, shape: Callable[[Any], Any], later: bool
    ) -> None:
        asked: list[str] = []

        def call(text: str) -> Any:  # noqa: ANN401
            asked.append(text)
            response = shape(FLAGGED if "burn" in text else CALM)
            if not later:
                return response

            async def answer() -> Any:  # noqa: ANN401
                await asyncio.sleep(0)
                return response

            return answer()

        check = moderation_guard(call, remote=None)

        def ask(text: str) -> CheckResult:
            found: Any = check.run(view(Turn(role="user", text=text)))

            async def wait() -> CheckResult:
                return await found

            return asyncio.run(wait()) if later else found

        bad, good = ask("burn it"), ask("bake it")
        assert (bad.blocked, bad.score, bad.label) == (True, 0.91, "violence")
        assert (good.blocked, good.score, good.label) == (False, 0.01, None)
        assert asked == ["burn it", "bake it"]

    def test_any_of_several_results_flags(self) -> None:
        both = {"results": [*CALM["results"], *FLAGGED["results"]]}
        found = read_moderation(both)
        assert (found.blocked, found.score) == (True, 0.91)

    def test_scores_may_be_missing(self) -> None:
        found = read_moderation({"results": [{"flagged": True}]})
        assert (found.blocked, found.score, found.label) == (True, None, None)

    @pytest.mark.parametrize(
        "response",
        [
            None,
            {},
            {"results": []},
            {"results": [{}]},
            {"results": [{"flagged": "no"}]},
            {"results": [{"flagged": False, "category_scores": {"a": float("nan")}}]},
            {"error": {"message": "quota"}},
        ],
    )
    def test_what_is_no_response_has_not_passed(self, response: object) -> None:
        with pytest.raises(CheckFailedError):
            read_moderation(response)


def test_a_guard_of_text_guards_a_client(loaded: Any, calm_bundle: Any) -> None:  # noqa: ANN401
    """A transcript reaches the guard, and its verdict the reply."""
    from tests.guard.conftest import CLIP as SPOKEN

    check = moderation_guard(
        lambda text: FLAGGED if "burn" in text else CALM, remote=None
    )
    heard = iter(["please burn it", "please bake it"])
    with SafeAudioLLM.from_loaded(
        loaded,
        calm_bundle,
        input_checks=[check],
        transcriber=lambda clip, rate: next(heard),
    ) as client:
        assert client.generate(SPOKEN, "Answer.").outcome is Outcome.BLOCKED
        assert client.generate(SPOKEN, "Answer.").outcome is Outcome.ANSWERED
