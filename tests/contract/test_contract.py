"""What holds for every family: one way in, one way to steer, one proof."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from sarguard.audio.silence import speech_span
from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import Recipe
from sarguard.client import SafeAudioLLM
from sarguard.decoding import Row, decode_rows, guarded_decode
from sarguard.decoding.readings import canonical_readings
from sarguard.decoding.request_reader import read_beside, read_canonical
from sarguard.errors import (
    ArtifactMismatchError,
    AudioTooLongError,
    ConfigurationError,
    MissingDependencyError,
    SteeringNotAppliedError,
    SteeringRemovedError,
)
from sarguard.models.families import FAMILIES, Evidence, family_of
from sarguard.models.identity import weights_digest
from sarguard.models.inputs import audio_token_counts, build_inputs
from sarguard.models.loading import LoadedModel, load_model
from sarguard.models.prompt_ids import prompt_ids
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import DoseRule, DoseSpec
from sarguard.steering.residual import last_states
from sarguard.steering.self_test import run_self_test
from sarguard.steering.steerer import Steerer
from sarguard.types import Outcome, Turn
from tests import tiny
from tests.contract.families import BUILDERS, fresh, shared

ALPHA = 0.4
STEPS = 5
PATHS = {
    "phi4_multimodal": "model.layers",
    "nemotron_h_omni": "language_model.model.layers",
}
# Where a clip of any length costs the same number of tokens.
FIXED_COST = ("gemma3n", "voxtral")


@pytest.fixture(scope="module", params=list(BUILDERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(name: str) -> LoadedModel:
    return shared(name)


def kind_of(loaded: LoadedModel) -> str:
    return str(loaded.model.config.model_type)


def vectors_for(loaded: LoadedModel) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (len(loaded.decoder), loaded.decoder.hidden_size)
    return 5 * torch.randn(shape, generator=generator)


def question(loaded: LoadedModel, text: str, seconds: float = 0.6) -> list[Turn]:
    clip = tiny.clip(seconds, pitch=200 + 40 * len(text))
    return [Turn(role="user", text=text, audio=(clip,))]


def questions(loaded: LoadedModel) -> list[list[Turn]]:
    """Return three prompts of different length that may share a batch."""
    equal = family_of(loaded.model.config).equal_lengths
    seconds = (0.6, 0.6, 0.6) if equal else (0.5, 0.8, 0.6)
    texts = ("One.", "A somewhat longer question.", "Three?")
    return [
        question(loaded, text, length)
        for text, length in zip(texts, seconds, strict=True)
    ]


@contextmanager
def authors_rule(loaded: LoadedModel, vectors: Tensor) -> Iterator[None]:
    """Push the last position of every forward pass, as the paper's code does."""

    def pushing(vector: Tensor) -> Callable[..., Any]:
        def push(_module: object, _args: object, out: Any) -> Any:  # noqa: ANN401
            changed = out.clone()
            stream = changed[0] if loaded.decoder.streams > 1 else changed
            stream[:, -1, :] += ALPHA * vector
            return changed

        return push

    handles = [
        layer.register_forward_hook(pushing(vector))
        for layer, vector in zip(loaded.decoder.layers, vectors, strict=True)
    ]
    yield
    for handle in handles:
        handle.remove()


def plain_tokens(loaded: LoadedModel, inputs: dict[str, Tensor]) -> list[int]:
    with torch.no_grad():
        output = loaded.model.generate(
            **inputs, max_new_tokens=STEPS, do_sample=False, eos_token_id=None
        )
    return list(output[0, inputs["input_ids"].shape[1] :].tolist())


def until_stop(loaded: LoadedModel, tokens: Sequence[int]) -> list[int]:
    stop = loaded.tokenizer.eos_token_id
    return list(tokens[: tokens.index(stop)] if stop in tokens else tokens)


def layer_states(loaded: LoadedModel, index: int, action: Callable[[], object]) -> Any:  # noqa: ANN401
    seen: list[Tensor] = []
    layer = loaded.decoder.layers[index]
    handle = layer.register_forward_hook(lambda _m, _a, out: seen.append(out.clone()))
    action()
    handle.remove()
    found = seen[0]
    return found[0] if loaded.decoder.streams > 1 else found


def test_every_family_of_the_table_is_here() -> None:
    assert {name.split()[0] for name in BUILDERS} == set(FAMILIES)


def test_the_table_names_the_class_that_is_loaded(loaded: LoadedModel) -> None:
    family = family_of(loaded.model.config)
    assert type(loaded.model).__name__ == family.architecture
    needs_more = family.evidence in (Evidence.AUDIO_PROCESSOR, Evidence.STUB_PROCESSOR)
    assert needs_more is bool(family.needs)


def test_a_checkpoint_loads_by_its_architecture(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded.model.save_pretrained(tmp_path)
    if family_of(loaded.model.config).evidence in (
        Evidence.REFERENCE,
        Evidence.FULL_PROCESSOR,
    ):
        loaded.processor.save_pretrained(tmp_path)
    else:
        # What the real processor needs cannot be installed here.
        monkeypatch.setattr(
            transformers.AutoProcessor,
            "from_pretrained",
            lambda *_, **__: loaded.processor,
        )
    if kind_of(loaded) == "gemma3n" and importlib.util.find_spec("timm") is None:
        # Its picture half is built from a package's.
        with pytest.raises(MissingDependencyError, match="timm"):
            load_model(tmp_path, progress=False)
        return
    again = load_model(tmp_path, progress=False)
    assert type(again.model) is type(loaded.model)
    assert type(again.processor) is type(loaded.processor)
    assert again.decoder.path == loaded.decoder.path
    assert weights_digest(again.model) == weights_digest(loaded.model)


def test_the_text_decoder_is_found(loaded: LoadedModel) -> None:
    path = PATHS.get(kind_of(loaded), "model.language_model.layers")
    assert loaded.decoder.path == path
    assert loaded.decoder.hidden_size == 64
    assert loaded.decoder.streams == (4 if kind_of(loaded) == "gemma3n" else 1)


def test_a_clip_is_heard(loaded: LoadedModel) -> None:
    inputs = build_inputs(loaded, [question(loaded, "Hi.")])
    (tokens,) = audio_token_counts(loaded, inputs)
    assert tokens > 0
    other = question(loaded, "Hi.")
    other[0] = Turn(role="user", text="Hi.", audio=(-other[0].audio[0][::-1].copy(),))
    with torch.no_grad():
        first, second = (
            loaded.model(**made).logits[0, -1]
            for made in (inputs, build_inputs(loaded, [other]))
        )
    assert not torch.equal(first, second)


def test_the_same_prompt_gives_the_same_states(loaded: LoadedModel) -> None:
    inputs = build_inputs(loaded, [question(loaded, "Hi.")])
    with torch.no_grad():
        first, second = (loaded.model(**inputs).logits for _ in range(2))
    assert torch.equal(first, second)


def test_only_the_last_prompt_token_is_steered(loaded: LoadedModel) -> None:
    inputs = build_inputs(loaded, questions(loaded))
    rows, length = inputs["input_ids"].shape
    vectors = vectors_for(loaded)

    def run() -> None:
        with torch.no_grad():
            loaded.model(**inputs)

    bare = layer_states(loaded, 0, run)
    with (
        Steerer(loaded.decoder, vectors) as steerer,
        steerer.guard(prompt_length=length, alpha=ALPHA, rows=rows) as receipt,
    ):
        steered = layer_states(loaded, 0, run)
    steerer_moves = steered - bare
    assert receipt.steered == [1] * len(loaded.decoder)
    assert not steerer_moves[:, :-1].any()
    expected = (ALPHA * vectors[0]).expand(rows, -1)
    torch.testing.assert_close(steerer_moves[:, -1], expected, atol=1e-4, rtol=1e-4)


def test_answers_are_those_of_the_authors_rule(loaded: LoadedModel) -> None:
    inputs = build_inputs(loaded, [question(loaded, "What is this?")])
    vectors = vectors_for(loaded)
    bare = plain_tokens(loaded, inputs)
    with authors_rule(loaded, vectors):
        expected = plain_tokens(loaded, inputs)
    with Steerer(loaded.decoder, vectors) as steerer:
        (found,) = guarded_decode(
            loaded, steerer, inputs, alpha=ALPHA, max_new_tokens=STEPS
        )
    assert list(found.token_ids) == until_stop(loaded, expected)
    assert found.steered_positions == found.output_tokens
    assert expected != bare


def test_a_padded_batch_of_mixed_strengths_answers_like_each_row_alone(
    loaded: LoadedModel,
) -> None:
    strengths = [0.05, 0.3, 0.8]
    prompts = questions(loaded)
    together = build_inputs(loaded, prompts)
    assert not bool(together["attention_mask"].all())
    with Steerer(loaded.decoder, vectors_for(loaded)) as steerer:
        found = guarded_decode(
            loaded, steerer, together, alpha=strengths, max_new_tokens=STEPS
        )
        for row, (turns, strength) in enumerate(zip(prompts, strengths, strict=True)):
            (alone,) = guarded_decode(
                loaded,
                steerer,
                build_inputs(loaded, [turns]),
                alpha=strength,
                max_new_tokens=STEPS,
            )
            assert alone.token_ids == found[row].token_ids, f"row {row}"
            assert alone.output_tokens == alone.steered_positions


def conditioned(alpha: float) -> DoseSpec:
    """Return a dose that asks for a score, and whatever it is decides the same."""
    rule = DoseRule(floor=alpha, ceiling=alpha, low=-1.0, high=1.0, block=9.0)
    return DoseSpec(rule=rule)


def test_a_dose_that_looks_first_changes_nothing_else(loaded: LoadedModel) -> None:
    # The prompt's end is run twice then: caches that cannot lose a token are redone.
    strengths = [0.05, 0.3, 0.8]
    inputs = build_inputs(loaded, questions(loaded))
    rows = [Row(dose=conditioned(a), max_new_tokens=STEPS) for a in strengths]
    seen: list[Tensor] = []

    def score(states: Tensor, _kind: str) -> Tensor:
        seen.append(states)
        return torch.zeros(states.shape[1])

    with Steerer(loaded.decoder, vectors_for(loaded)) as steerer:
        expected = guarded_decode(
            loaded, steerer, inputs, alpha=strengths, max_new_tokens=STEPS
        )
        decode_rows(loaded, steerer, inputs, rows, score=score)
    assert [r.token_ids for r in rows] == [e.token_ids for e in expected]
    shape = (len(loaded.decoder), 1, 64)
    assert [tuple(states.shape) for states in seen] == [shape] * len(rows)


def test_a_dose_that_looks_first_leaves_out_the_output_layer(
    loaded: LoadedModel,
) -> None:
    layer = loaded.model.get_output_embeddings()
    if layer is None:
        pytest.skip("the model does not say which layer is its output layer")
    given: list[int] = []
    handle = layer.register_forward_hook(lambda *run: given.append(run[2].shape[1]))
    row = Row(dose=conditioned(ALPHA), max_new_tokens=2)
    inputs = build_inputs(loaded, [question(loaded, "Hi.")])
    with Steerer(loaded.decoder, vectors_for(loaded)) as steerer:
        decode_rows(
            loaded,
            steerer,
            inputs,
            [row],
            score=lambda s, _kind: torch.zeros(s.shape[1]),
        )
    handle.remove()
    assert given == [0, *[1] * row.output_tokens]


def test_every_reading_has_the_states_of_its_own_prompt(loaded: LoadedModel) -> None:
    turns = question(loaded, "And this?", 1.3)
    if not loaded.single_audio:
        turns = [
            Turn(role="system", text="You sell tickets."),
            *question(loaded, "What is this?"),
            Turn(role="assistant", text="A tone."),
            *turns,
        ]
    (read,) = read_canonical(loaded, [turns])
    assert len({found.kind for found in read}) == (3 if loaded.single_audio else 5)
    prompts = [(r.kind, r.turns) for r in canonical_readings(turns)]
    if not loaded.single_audio:
        prompts.append(("conversation", tuple(turns)))
    assert [found.kind for found in read] == [kind for kind, _ in prompts]
    for found, (_, prompt) in zip(read, prompts, strict=True):
        expected = last_states(loaded.decoder, build_inputs(loaded, [prompt]))[:, 0]
        scale = float(expected.abs().max())
        torch.testing.assert_close(found.states, expected, atol=1e-4 * scale, rtol=0)


def test_a_conversation_with_long_silence_is_scored_without_it(
    loaded: LoadedModel,
) -> None:
    speech = tiny.clip(0.8)
    clip = np.concatenate([np.zeros(5 * tiny.RATE, np.float32), speech])
    turns = [Turn(role="user", audio=(clip,))]
    if not loaded.single_audio:
        turns = [*turns, Turn(role="assistant", text="A tone."), *turns]
    (beside,) = read_beside(loaded, [turns])
    (read,) = read_canonical(loaded, [turns])
    # The whole conversation is answered, and counts only where it is broken.
    assert len(read) == len(beside.read)
    span = speech_span(clip, loaded.sampling_rate)
    cut = [
        replace(turn, audio=tuple(c[span.start : span.stop] for c in turn.audio))
        for turn in turns
    ]
    expected = last_states(loaded.decoder, build_inputs(loaded, [cut]))[:, 0]
    scale = float(expected.abs().max())
    torch.testing.assert_close(read[-1].states, expected, atol=1e-4 * scale, rtol=0)


class TestSplicedClips:
    @pytest.fixture
    def splicing(self, loaded: LoadedModel) -> LoadedModel:
        if not family_of(loaded.model.config).splices_clips:
            pytest.skip("the family reads each prompt with features of its own")
        return loaded

    @pytest.mark.parametrize("seconds", [0.3, 7.7, 29.9, 45.0])
    def test_a_prompt_without_features_is_the_processors(
        self, splicing: LoadedModel, seconds: float
    ) -> None:
        if seconds > splicing.max_audio_seconds:
            pytest.skip("the clip is too long for the family")
        clips = [tiny.clip(seconds), tiny.clip(0.7)][
            : 1 if splicing.single_audio else 2
        ]
        turns = [Turn(role="user", text="<|im_end|> Hi.", audio=tuple(clips))]
        expected = build_inputs(splicing, [turns])["input_ids"][0]
        counts = [
            audio_token_counts(
                splicing,
                build_inputs(splicing, [[Turn(role="user", audio=(clip,))]]),
            )[0]
            for clip in clips
        ]
        assert torch.equal(prompt_ids(splicing, turns, counts), expected)

    def test_a_clip_is_encoded_once(self, splicing: LoadedModel) -> None:
        convolution = next(
            module
            for module in splicing.model.modules()
            if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d))
        )
        passes: list[int] = []
        handle = convolution.register_forward_hook(lambda *run: passes.append(1))
        with torch.no_grad():
            splicing.model(**build_inputs(splicing, [question(splicing, "Hi.")]))
        plain, passes[:] = len(passes), []
        (read,) = read_canonical(splicing, [question(splicing, "Hi.")])
        handle.remove()
        assert len(read) == 3
        assert len(passes) == plain


def test_nobody_answers_unsteered(loaded: LoadedModel) -> None:
    inputs = build_inputs(loaded, [question(loaded, "Hi.")])
    with Steerer(loaded.decoder, vectors_for(loaded)) as steerer:
        with pytest.raises(SteeringNotAppliedError, match="called directly"):
            loaded.model.generate(**inputs, max_new_tokens=1)
        layer = loaded.decoder.layers[-1]
        kept = dict(layer._forward_hooks)
        layer._forward_hooks.clear()
        with pytest.raises(SteeringRemovedError):
            guarded_decode(loaded, steerer, inputs, alpha=ALPHA, max_new_tokens=2)
        layer._forward_hooks.update(kept)


def test_a_bundle_guards_its_model(
    loaded: LoadedModel, name: str, tmp_path: Path
) -> None:
    made = calibrate(
        loaded, tiny.pairs(4), Recipe(rank=2), alpha=0.5, needs_refusal=False
    )
    bundle = SteeringBundle.load(made.save(tmp_path / "bundle"))
    assert bundle.digest == made.digest
    bundle.check(loaded)
    with pytest.raises(ArtifactMismatchError, match="weights_digest"):
        bundle.check(fresh(name, seed=1))
    vectors, digest = bundle.vectors.ablated, bundle.card.vectors_digest
    with Steerer(loaded.decoder, vectors, digest=digest) as steerer:
        run_self_test(loaded, steerer, alpha=0.5)
    with SafeAudioLLM.from_loaded(loaded, bundle, alpha=bundle.card.alpha) as client:
        clip = (tiny.clip(0.6), loaded.sampling_rate)
        reply = client.generate(clip, "Hi.", max_new_tokens=STEPS)
        streamed = list(client.stream(clip, "Hi.", max_new_tokens=STEPS))
    assert reply.outcome in (Outcome.ANSWERED, Outcome.REFUSED), reply.guard
    assert reply.usage.audio_tokens > 0
    assert streamed[-1].reply.text == reply.text


def test_a_text_alone_is_answered(loaded: LoadedModel) -> None:
    inputs = build_inputs(loaded, [[Turn(role="user", text="Just text.")]])
    assert audio_token_counts(loaded, inputs) == [0]
    with Steerer(loaded.decoder, vectors_for(loaded)) as steerer:
        (found,) = guarded_decode(
            loaded, steerer, inputs, alpha=ALPHA, max_new_tokens=2
        )
    assert found.steered_positions == found.output_tokens


def test_half_precision_is_steered(name: str) -> None:
    loaded = fresh(name)
    loaded.model.bfloat16()
    inputs = build_inputs(loaded, [question(loaded, "Hi.")])
    with Steerer(loaded.decoder, vectors_for(loaded)) as steerer:
        (found,) = guarded_decode(
            loaded, steerer, inputs, alpha=ALPHA, max_new_tokens=2
        )
    assert found.steered_positions == found.output_tokens


class TestLimits:
    def test_a_clip_that_would_be_cut_is_refused(self, loaded: LoadedModel) -> None:
        samples = int((loaded.max_audio_seconds + 1) * loaded.sampling_rate)
        clip = torch.zeros(samples).numpy()
        too_long = [Turn(role="user", text="Hi.", audio=(clip,))]
        with pytest.raises(AudioTooLongError, match="hears no more than"):
            build_inputs(loaded, [too_long])

    def test_a_clip_that_is_allowed_is_heard_whole(self, loaded: LoadedModel) -> None:
        if kind_of(loaded) in FIXED_COST:
            pytest.skip("a clip costs the same at any length")
        longest = min(loaded.max_audio_seconds, 45.0)
        counts = []
        for seconds in (longest - 8, longest):
            samples = int(seconds * loaded.sampling_rate)
            clip = 0.01 * torch.ones(samples).numpy()
            turn = Turn(role="user", text="Hi.", audio=(clip,))
            counts += audio_token_counts(loaded, build_inputs(loaded, [[turn]]))
        shorter, longer = counts
        assert longer / shorter == pytest.approx(longest / (longest - 8), rel=0.03)

    def test_one_clip_or_several(self, loaded: LoadedModel) -> None:
        clips = (tiny.clip(0.5), tiny.clip(0.5, pitch=300))
        turn = Turn(role="user", text="Compare.", audio=clips)
        if loaded.single_audio:
            with pytest.raises(ConfigurationError, match="one clip a conversation"):
                build_inputs(loaded, [[turn]])
            return
        (both,) = audio_token_counts(loaded, build_inputs(loaded, [[turn]]))
        alone = Turn(role="user", text="Compare.", audio=clips[:1])
        assert (
            both == 2 * audio_token_counts(loaded, build_inputs(loaded, [[alone]]))[0]
        )

    def test_unequal_clips_share_a_batch_only_where_that_is_exact(
        self, loaded: LoadedModel
    ) -> None:
        prompts = [question(loaded, "Hi.", seconds) for seconds in (0.5, 0.9)]
        if family_of(loaded.model.config).equal_lengths:
            with pytest.raises(ConfigurationError, match="share a batch"):
                build_inputs(loaded, prompts)
            return
        assert_exact_together(loaded, prompts)

    def test_a_text_shares_a_batch_with_a_clip_only_where_that_is_exact(
        self, loaded: LoadedModel
    ) -> None:
        text = [Turn(role="user", text="Just text, and rather more of it.")]
        prompts = [question(loaded, "Hi."), text]
        family = family_of(loaded.model.config)
        if family.equal_lengths or family.equal_modality or family.single_audio:
            with pytest.raises(ConfigurationError, match="share a batch"):
                build_inputs(loaded, prompts)
            return
        assert_exact_together(loaded, prompts)


def assert_exact_together(loaded: LoadedModel, prompts: list[list[Turn]]) -> None:
    """Compare the next token of each prompt in a batch with that of it alone."""
    with torch.no_grad():
        together = loaded.model(**build_inputs(loaded, prompts)).logits[:, -1]
        for row, turns in enumerate(prompts):
            alone = loaded.model(**build_inputs(loaded, [turns])).logits[0, -1]
            scale = float(alone.abs().max())
            error = float((together[row] - alone).abs().max()) / scale
            assert error < 1e-4, f"row {row}"
