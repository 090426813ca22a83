from __future__ import annotations

import numpy as np
import pytest
import torch

from sarguard.bench import calibrating, suite
from sarguard.bench.authors import authors_states
from sarguard.bench.calibrating import (
    measure_calibration,
    measure_memory,
    peak_bytes,
)
from sarguard.bench.callers import measure_callers
from sarguard.bench.conversation import measure_conversation
from sarguard.bench.decoding import measure_decoding
from sarguard.bench.rows import Bar, Measured, Skipped, in_turn
from sarguard.bench.suite import PARTS, Effort, run_bench
from sarguard.bench.synthetic import never_stopping, random_qwen2_audio
from sarguard.calibration.recipe import Recipe
from sarguard.errors import ConfigurationError
from sarguard.models.loading import LoadedModel
from tests import tiny

SMALL = Effort(tokens=3, repeats=2, pairs=12)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny.build(layers=2)


def row(values: tuple[float, ...], bar: Bar) -> Measured:
    return Measured(what="this / that", on="tiny", bar=bar, values=values)


class TestRows:
    @pytest.mark.parametrize(
        ("bar", "good", "bad"),
        [
            (Bar(sense="<=", limit=1.03), 1.03, 1.031),
            (Bar(sense="<", limit=0.3, unit="s"), 0.29, 0.3),
            (Bar(sense=">=", limit=5), 5.0, 4.9),
        ],
        ids=str,
    )
    def test_a_bar_is_met_or_missed(self, bar: Bar, good: float, bad: float) -> None:
        assert row((good,), bar).met
        assert not row((bad,), bar).met

    def test_the_median_counts(self) -> None:
        found = row((9.0, 1.0, 1.0, 1.0, 1.0), Bar(sense="<=", limit=1.0))
        assert found.met
        assert found.quartiles == (1.0, 1.0)
        assert row((2.0,), found.bar).quartiles is None

    def test_arms_take_turns(self) -> None:
        order: list[str] = []
        pairs = in_turn(
            lambda: order.append("ours") or len(order),
            lambda: order.append("other") or str(len(order)),
            repeats=3,
        )
        assert order == ["ours", "other", "other", "ours", "ours", "other"]
        assert pairs == [(1, "2"), (4, "3"), (5, "6")]


class TestArms:
    def test_decoding_leaves_the_model_as_it_was(self, loaded: LoadedModel) -> None:
        stop = loaded.model.generation_config.eos_token_id
        step, first, batch = measure_decoding(loaded, tokens=3, repeats=2)
        assert step.ours is not None
        assert step.ours > 0
        assert str(first.bar) == "<= 1 step"
        assert batch.unit == "answers/s"
        assert loaded.model.generation_config.eos_token_id == stop
        assert not loaded.decoder.layers[0]._forward_hooks

    def test_callers_are_answered_in_batches(self, loaded: LoadedModel) -> None:
        rows: list[int] = []
        handle = loaded.decoder.owner.register_forward_pre_hook(
            lambda _m, _a, kwargs: rows.append(kwargs["inputs_embeds"].shape[0]),
            with_kwargs=True,
        )
        found = measure_callers(loaded, tokens=2, repeats=1)
        handle.remove()
        assert found.median > 0
        assert 8 in rows
        assert rows.count(1) > 16

    def test_callers_that_get_no_answer_are_not_timed(
        self, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("no")

        monkeypatch.setattr("sarguard.serving.batch_engine.decode_rows", fail)
        with pytest.raises(RuntimeError, match="error_closed"):
            measure_callers(loaded, tokens=2, repeats=1)
        with pytest.raises(RuntimeError, match="error_closed"):
            measure_conversation(loaded, repeats=1)

    def test_later_turns_are_compared_with_the_first(self, loaded: LoadedModel) -> None:
        clip, question, eighth, thirtieth, trimmed = measure_conversation(
            loaded, repeats=1
        )
        assert "clip, scored" in clip.what
        assert "question" in question.what
        assert "turn 8 / turn 1" in eighth.what
        assert "turn 30" in thirtieth.what
        assert "turn 30, trimmed" in trimmed.what
        rows = (clip, question, eighth, thirtieth, trimmed)
        assert min(row.median for row in rows) > 0
        assert len(trimmed.values) == 2
        assert not loaded.decoder.layers[0]._forward_hooks

    def test_no_token_ends_an_answer(self, loaded: LoadedModel) -> None:
        vocabulary = loaded.model.get_output_embeddings().weight.shape[0]
        with never_stopping(loaded):
            assert loaded.model.generation_config.eos_token_id >= vocabulary


class TestCalibration:
    def test_vectors_are_the_authors(self, loaded: LoadedModel) -> None:
        time, difference = measure_calibration(loaded, tiny.pairs(14))
        assert len(time.values) == 4
        assert difference.median < 1e-3
        assert not loaded.decoder.layers[0]._forward_hooks

    def test_vectors_that_are_not_the_authors_are_told(
        self, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def other(*_: object) -> torch.Tensor:
            return torch.ones(len(loaded.decoder), loaded.decoder.hidden_size)

        monkeypatch.setattr(calibrating, "authors_vectors", other)
        assert not measure_calibration(loaded, tiny.pairs(12))[1].met

    def test_the_authors_run_the_model_four_times_a_pair(
        self, loaded: LoadedModel
    ) -> None:
        runs: list[tuple[int, ...]] = []
        handle = loaded.model.register_forward_hook(
            lambda _m, _a, out: runs.append(tuple(out.logits.shape))
        )
        states = authors_states(loaded, tiny.pairs(2), Recipe())
        handle.remove()
        assert len(runs) == 4 * 2
        assert {shape[0] for shape in runs} == {1}
        assert all(shape[1] > 1 for shape in runs)
        assert states["safe"][0].shape == (2, 64)

    def test_memory_is_compared_with_a_batch(self, loaded: LoadedModel) -> None:
        found = measure_memory(loaded, tiny.pairs(10))
        assert found.met
        assert found.note == "10 pairs"


def test_live_tensors_are_counted_exactly() -> None:
    def act() -> None:
        zeros = torch.zeros(1000)
        view = zeros[:10]
        more = zeros + 1
        del zeros, view
        more.relu_()
        torch.cat([more, more])

    assert peak_bytes(torch.device("cpu"), act) == 3 * 4000


def test_importing_the_package_loads_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = suite.measure_import(repeats=2)
    assert len(found.values) == 2
    monkeypatch.setattr(suite, "_IMPORT", "print('[0.1, true]')")
    with pytest.raises(ConfigurationError, match="loads torch"):
        suite.measure_import(repeats=1)


def test_a_random_model_of_any_size_is_guarded() -> None:
    text = {**tiny.TEXT, "num_hidden_layers": 2}
    text.pop("initializer_range")
    made = random_qwen2_audio(
        tiny.tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        torch.device("cpu"),
        text=text,
        audio={
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
        },
    )
    assert made.dtype == torch.bfloat16
    assert (len(made.decoder), made.decoder.hidden_size) == (2, 64)
    assert len(measure_decoding(made, tokens=3, repeats=1)) == 3


@pytest.fixture
def short_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "load_pairs", lambda *_, limit, **__: tiny.pairs(limit))


@pytest.mark.usefixtures("short_pairs")
def test_every_row_is_there_and_a_gpu_is_missed_aloud(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    seen: list[str] = []
    rows = run_bench(
        loaded, effort=SMALL, progress=lambda _done, _total, now: seen.append(now)
    )
    assert seen == list(PARTS)
    assert [str(found.bar) for found in rows] == [
        *("<= 1.03", "<= 1 step", ">= 0.97", ">= 1.3"),
        *("<= 1.1", "<= 1.1", "<= 1.3", "<= 1.3", "<= 1.3", ">= 5", "<= 0.0001"),
        *("< 2", "< 0.3 s", "<= 1.01"),
    ]
    missed = rows[-1]
    assert isinstance(missed, Skipped)
    assert "no GPU here" in missed.reason
    assert all(np.isfinite(found.median) for found in rows[:-1])  # type: ignore[union-attr]
