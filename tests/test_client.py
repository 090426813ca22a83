from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sarguard import bundles
from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import Recipe
from sarguard.client import FALLBACK, SafeAudioLLM
from sarguard.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    AudioEmptyError,
    AudioError,
    AudioNotFoundError,
    AudioTooLongError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    SteeringError,
    SteeringNotAppliedError,
    UnsupportedModelError,
)
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Reply, Turn
from tests import tiny

CLIP = (tiny.clip(0.5), tiny.RATE)


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.build()


@pytest.fixture
def client(loaded: LoadedModel, tiny_bundle: SteeringBundle) -> Iterator[SafeAudioLLM]:
    with SafeAudioLLM.from_model(
        loaded.model, loaded.processor, bundle=tiny_bundle, alpha=0.1
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("checkpoint")
    tiny.shared().model.save_pretrained(home)
    tiny.shared().processor.save_pretrained(home)
    return home


def wav(seconds: float = 0.5, rate: int = tiny.RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tiny.clip(seconds), rate, format="WAV")
    return file.getvalue()


class TestReplies:
    def test_a_clip_is_answered(
        self, client: SafeAudioLLM, tiny_bundle: SteeringBundle
    ) -> None:
        reply = client.generate(audio=CLIP, text="What is it?", max_new_tokens=6)
        assert reply.outcome is Outcome.ANSWERED
        assert reply.finish_reason == "length"
        assert reply.usage.output_tokens == 6
        assert 0 < reply.usage.audio_tokens < reply.usage.prompt_tokens
        timings = reply.timings
        assert 0 < timings.prefill_s < timings.first_token_s < timings.total_s
        assert reply.guard.mode == "faithful"
        assert reply.guard.alpha == 0.1
        assert reply.guard.bundle_digest == tiny_bundle.digest
        assert (reply.guard.steered_positions, reply.guard.layers) == (6, 3)
        assert reply.guard.fault is None
        assert json.loads(json.dumps(reply.to_dict()))["outcome"] == "answered"

    def test_every_form_of_a_clip_gives_the_same_answer(
        self, client: SafeAudioLLM, tmp_path: Path
    ) -> None:
        path = tmp_path / "clip.wav"
        path.write_bytes(wav())
        replies = [
            client.generate(audio=source, max_new_tokens=4).text
            for source in (path, str(path), wav(), io.BytesIO(wav()), [path])
        ]
        assert len(set(replies)) == 1

    def test_text_alone_is_answered(self, client: SafeAudioLLM) -> None:
        reply = client.generate(text="Hello.", max_new_tokens=3)
        assert reply.usage.audio_tokens == 0
        assert reply.guard.steered_positions == 3

    def test_several_clips_are_heard(self, client: SafeAudioLLM) -> None:
        one = client.generate(audio=CLIP, text="Compare.", max_new_tokens=2)
        two = client.generate(audio=[CLIP, CLIP], text="Compare.", max_new_tokens=2)
        assert two.usage.audio_tokens == 2 * one.usage.audio_tokens

    def test_history_and_system_reach_the_model(self, client: SafeAudioLLM) -> None:
        first = client.generate(audio=CLIP, text="Hi.", max_new_tokens=3)
        history = [client.turn("user", text="Hi.", audio=CLIP), first.as_turn()]
        plain = client.generate(text="And?", history=history, max_new_tokens=3)
        briefed = client.generate(
            text="And?", history=history, system="Be brief.", max_new_tokens=3
        )
        assert plain.usage.audio_tokens == first.usage.audio_tokens
        assert plain.usage.prompt_tokens > first.usage.prompt_tokens
        assert briefed.usage.prompt_tokens != plain.usage.prompt_tokens

    def test_sampling_repeats_with_its_seed(self, client: SafeAudioLLM) -> None:
        def sample(seed: int) -> str:
            return client.generate(
                # Past the tokens that are greedy whatever the temperature.
                text="Hi.",
                max_new_tokens=48,
                temperature=3.0,
                seed=seed,
            ).text

        assert sample(1) == sample(1) != sample(2)

    def test_a_refusal_is_told_from_an_answer(
        self, client: SafeAudioLLM, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            type(loaded.tokenizer), "decode", lambda *_a, **_k: "I cannot do that."
        )
        assert client.generate(text="Hi.").outcome is Outcome.REFUSED

    def test_threads_take_turns(self, client: SafeAudioLLM) -> None:
        expected = {
            text: client.generate(text=text, max_new_tokens=6).text
            for text in ("One.", "Two, please.", "And three?")
        }
        found: dict[str, Reply] = {}

        def ask(text: str) -> None:
            found[text] = client.generate(text=text, max_new_tokens=6)

        threads = [threading.Thread(target=ask, args=(text,)) for text in expected]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {text: reply.text for text, reply in found.items()} == expected


class TestBadRequests:
    def test_a_missing_file(self, client: SafeAudioLLM, tmp_path: Path) -> None:
        with pytest.raises(AudioNotFoundError):
            client.generate(audio=tmp_path / "nowhere.wav")

    def test_an_empty_clip(self, client: SafeAudioLLM) -> None:
        with pytest.raises(AudioEmptyError):
            client.generate(audio=b"")

    def test_a_long_clip_is_never_cut(self, client: SafeAudioLLM) -> None:
        with pytest.raises(AudioTooLongError):
            client.generate(audio=(tiny.clip(31.0), tiny.RATE))

    def test_a_bad_clip_among_good_ones(self, client: SafeAudioLLM) -> None:
        silent = np.zeros(tiny.RATE, dtype=np.float32)
        with pytest.raises(AudioError):
            client.generate(audio=[CLIP, (silent, tiny.RATE)])

    @pytest.mark.parametrize(
        "request_",
        [{}, {"text": "  "}, {"audio": []}, {"text": "Hi.", "max_new_tokens": 0}],
    )
    def test_nothing_to_answer(
        self, client: SafeAudioLLM, request_: dict[str, object]
    ) -> None:
        with pytest.raises(InvalidRequestError):
            client.generate(**request_)  # type: ignore[arg-type]

    def test_a_bad_request_leaves_the_client_usable(self, client: SafeAudioLLM) -> None:
        with pytest.raises(InvalidRequestError):
            client.generate(text="Hi.", temperature=-1)
        with pytest.raises(InvalidRequestError):
            client.generate(text="Hi.", history=[Turn(role="robot")])  # type: ignore[arg-type]
        assert client.generate(text="Hi.", max_new_tokens=2).text is not None

    def test_a_closed_client_answers_nothing(self, client: SafeAudioLLM) -> None:
        client.close()
        with pytest.raises(ClientClosedError, match="closed"):
            client.generate(text="Hi.")


class TestFailingClosed:
    def test_removed_hooks_cost_the_answer(
        self, client: SafeAudioLLM, loaded: LoadedModel
    ) -> None:
        loaded.decoder.layers[1]._forward_hooks.clear()
        reply = client.generate(audio=CLIP, text="Hi.", max_new_tokens=4)
        assert reply.outcome is Outcome.ERROR_CLOSED
        assert reply.text == FALLBACK
        assert reply.finish_reason == "error"
        assert reply.usage.output_tokens == 0
        assert reply.guard.steered_positions == 0
        assert reply.guard.fault is not None
        assert reply.guard.fault.startswith("SteeringRemovedError")

    def test_a_hook_that_dies_halfway_costs_the_answer(
        self, client: SafeAudioLLM, loaded: LoadedModel
    ) -> None:
        layer = loaded.decoder.layers[2]
        calls = iter(range(100))

        def sabotage(*_args: object) -> None:
            if next(calls) == 2:
                layer._forward_hooks.clear()

        layer.register_forward_pre_hook(sabotage)
        reply = client.generate(text="Hi.", max_new_tokens=6)
        assert reply.outcome is Outcome.ERROR_CLOSED
        assert reply.text == FALLBACK

    def test_changed_vectors_cost_the_answer(self, client: SafeAudioLLM) -> None:
        client._backend.steerer._vectors[0].mul_(0.01)
        reply = client.generate(text="Hi.", max_new_tokens=2)
        assert reply.outcome is Outcome.ERROR_CLOSED

    def test_the_fallback_is_the_callers(
        self, loaded: LoadedModel, tiny_bundle: SteeringBundle
    ) -> None:
        with SafeAudioLLM.from_loaded(
            loaded, tiny_bundle, fallback="Call 123."
        ) as client:
            loaded.decoder.layers[0]._forward_hooks.clear()
            assert client.generate(text="Hi.").text == "Call 123."

    def test_the_model_itself_answers_nobody(
        self, client: SafeAudioLLM, loaded: LoadedModel
    ) -> None:
        ids = torch.tensor([[1, 2, 3]])
        with pytest.raises(SteeringNotAppliedError):
            loaded.model.generate(input_ids=ids, max_new_tokens=2)
        with pytest.raises(SteeringNotAppliedError):
            loaded.model(input_ids=ids)

    def test_closing_gives_the_model_back(
        self, client: SafeAudioLLM, loaded: LoadedModel
    ) -> None:
        client.close()
        loaded.model(input_ids=torch.tensor([[1, 2, 3]]))

    @pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
    def test_no_client_without_a_dose(
        self, loaded: LoadedModel, tiny_bundle: SteeringBundle, alpha: float
    ) -> None:
        with pytest.raises(ConfigurationError, match="alpha"):
            SafeAudioLLM.from_loaded(loaded, tiny_bundle, alpha=alpha)
        loaded.model(input_ids=torch.tensor([[1, 2, 3]]))

    def test_a_dose_that_does_nothing_is_noticed_at_load(
        self, loaded: LoadedModel, tiny_bundle: SteeringBundle
    ) -> None:
        with pytest.raises(SteeringNotAppliedError, match="as it was"):
            SafeAudioLLM.from_loaded(loaded, tiny_bundle, alpha=1e-12)

    def test_a_compiled_model_is_refused(
        self, loaded: LoadedModel, tiny_bundle: SteeringBundle
    ) -> None:
        loaded.model.compile(backend="eager")
        with pytest.raises(ConfigurationError, match="compiled"):
            SafeAudioLLM.from_model(loaded.model, loaded.processor, bundle=tiny_bundle)

    def test_a_guarded_model_is_not_guarded_twice(
        self, client: SafeAudioLLM, loaded: LoadedModel, tiny_bundle: SteeringBundle
    ) -> None:
        with pytest.raises(SteeringError, match="guarded already"):
            SafeAudioLLM.from_model(loaded.model, loaded.processor, bundle=tiny_bundle)
        assert client.generate(text="Hi.", max_new_tokens=2).guard.fault is None


class TestOpening:
    def test_a_checkpoint_and_a_bundle(
        self, checkpoint: Path, tiny_bundle: SteeringBundle, tmp_path: Path
    ) -> None:
        tiny_bundle.save(tmp_path / "bundle")
        with SafeAudioLLM.from_pretrained(
            checkpoint, bundle=tmp_path / "bundle", alpha=0.2, progress=False
        ) as client:
            assert client.alpha == 0.2
            assert client.model_name == str(checkpoint)
            reply = client.generate(audio=CLIP, text="Hi.", max_new_tokens=3)
        assert reply.guard.bundle_digest == tiny_bundle.digest

    def test_without_a_bundle_the_way_to_one_is_named(self, checkpoint: Path) -> None:
        with pytest.raises(ArtifactNotFoundError) as caught:
            SafeAudioLLM.from_pretrained(checkpoint)
        message = str(caught.value)
        assert f"sarguard calibrate {checkpoint} -o bundle/" in message
        assert "calibrate=True" in message

    def test_a_wrong_bundle_path_costs_no_load(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactNotFoundError):
            SafeAudioLLM.from_pretrained("no/such-model", bundle=tmp_path / "nowhere")

    def test_a_bundle_of_another_model(self, checkpoint: Path, tmp_path: Path) -> None:
        other = calibrate(
            tiny.build(seed=9), tiny.pairs(3), Recipe(rank=1), needs_refusal=False
        )
        with pytest.raises(ArtifactMismatchError, match="weights_digest"):
            SafeAudioLLM.from_pretrained(checkpoint, bundle=other)

    def test_a_model_that_is_not_there(
        self, tiny_bundle: SteeringBundle, tmp_path: Path
    ) -> None:
        with pytest.raises(UnsupportedModelError):
            SafeAudioLLM.from_pretrained(tmp_path / "nowhere", bundle=tiny_bundle)

    def test_a_model_is_calibrated_when_asked(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, int]] = []

        def load_pairs(split: str, *, sample_rate: int) -> list[object]:
            asked.append((split, sample_rate))
            return list(tiny.pairs(12))

        monkeypatch.setattr("sarguard.datasets.load_pairs", load_pairs)
        # A tiny random model has none.
        monkeypatch.setattr("sarguard.calibration.refusal_check.MIN_GAIN", -100.0)
        with SafeAudioLLM.from_pretrained(
            checkpoint, calibrate=True, progress=False
        ) as client:
            card = client.bundle.card
        assert asked == [("calibration", 16_000)]
        assert (card.pairs, card.rank, card.model_name) == (12, 10, str(checkpoint))

    def test_the_reference_model_has_its_own_bundle(
        self,
        checkpoint: Path,
        tiny_bundle: SteeringBundle,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(
            "sarguard.reference.assemble.ensure_reference", lambda **_: checkpoint
        )
        monkeypatch.setattr(bundles, "open_bundle", lambda _path: tiny_bundle)
        with SafeAudioLLM.from_pretrained("reference", progress=False) as client:
            assert client.model_name == "reference"
            assert client.bundle is tiny_bundle

    def test_other_families_are_guarded_too(self) -> None:
        for family in ("audioflamingo3", "glmasr"):
            loaded = tiny.build(family)
            bundle = calibrate(
                loaded, tiny.pairs(3), Recipe(rank=1), needs_refusal=False
            )
            with SafeAudioLLM.from_model(
                loaded.model, loaded.processor, bundle=bundle, alpha=0.1
            ) as client:
                reply = client.generate(audio=CLIP, text="Hi.", max_new_tokens=3)
                assert reply.guard.steered_positions == 3
                with pytest.raises(ConfigurationError, match="one clip"):
                    client.generate(audio=[CLIP, CLIP], text="Hi.")
