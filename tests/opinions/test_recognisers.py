"""Recognisers on a tiny Whisper of random weights, and on a CTranslate2 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sarguard.errors import ReferenceCorruptError
from sarguard.guard.transcripts import SpeechRecogniser
from sarguard.opinions import transformers_transcriber
from sarguard.opinions.whisper import whisper_state

CLIP = (np.sin(np.arange(16_000) / 9) / 4).astype(np.float32)
TOKENS = ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Return a tiny Whisper, its tokenizer of bytes and its feature extractor."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in TOKENS])
    file = tmp_path_factory.mktemp("whisper") / "tokenizer.json"
    backend.save(str(file))
    tokenizer: Any = WhisperTokenizer(tokenizer_file=str(file))
    start, end, plain = tokenizer.convert_tokens_to_ids(list(TOKENS))
    special = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
    }
    torch.manual_seed(0)
    model: Any = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            d_model=16,
            num_mel_bins=8,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            suppress_tokens=None,
            begin_suppress_tokens=None,
            **special,
        )
    ).eval()
    model.generation_config = GenerationConfig(
        is_multilingual=False,
        no_timestamps_token_id=plain,
        return_timestamps=False,
        # Nothing but letters, whatever the random weights prefer.
        suppress_tokens=[start, end, plain],
        max_length=12,
        **special,
    )
    extractor: Any = WhisperFeatureExtractor(feature_size=8)
    return model, tokenizer, extractor


def test_a_pipeline_makes_the_text_that_the_model_says(
    whisper: tuple[Any, Any, Any],
) -> None:
    model, tokenizer, extractor = whisper
    recogniser = transformers_transcriber(
        model,
        tokenizer=tokenizer,
        feature_extractor=extractor,
        version="tiny",
        generate={"num_beams": 1},
    )
    assert isinstance(recogniser, SpeechRecogniser)
    assert (recogniser.name, recogniser.version) == ("speech-recognition", "tiny")
    assert recogniser.remote is None
    features = extractor(CLIP, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        ids = model.generate(features, num_beams=1)[0]
    expected = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert recogniser.run(CLIP, 16_000) == expected
    assert expected


def variables(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a Whisper's weights as a CTranslate2 file names them."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    layers = model.config.decoder_layers

    def joined(side: str, layer: int, block: str, parts: str, what: str) -> Any:  # noqa: ANN401
        root = f"model.{side}.layers.{layer}.{block}"
        width = model.config.d_model
        return np.concatenate(
            [
                state.get(f"{root}.{part}_proj.{what}", np.zeros(width, np.float32))
                for part in parts
            ]
        )

    found: dict[str, Any] = {
        "decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"],
    }
    for side in ("encoder", "decoder"):
        root = f"model.{side}."
        positions = state[f"{root}embed_positions.weight"]
        found[f"{side}/position_encodings/encodings"] = positions
        for ours, theirs in (("weight", "gamma"), ("bias", "beta")):
            found[f"{side}/layer_norm/{theirs}"] = state[f"{root}layer_norm.{ours}"]
        blocks = [
            ("self_attn_layer_norm", "self_attention/layer_norm"),
            ("final_layer_norm", "ffn/layer_norm"),
        ]
        linears = [
            ("self_attn.out_proj", "self_attention/linear_1"),
            ("fc1", "ffn/linear_0"),
            ("fc2", "ffn/linear_1"),
        ]
        if side == "decoder":
            blocks += [("encoder_attn_layer_norm", "attention/layer_norm")]
            linears += [
                ("encoder_attn.q_proj", "attention/linear_0"),
                ("encoder_attn.out_proj", "attention/linear_2"),
            ]
        for layer in range(layers):
            at, to = f"{root}layers.{layer}.", f"{side}/layer_{layer}/"
            for ours, theirs in blocks:
                found[f"{to}{theirs}/gamma"] = state[f"{at}{ours}.weight"]
                found[f"{to}{theirs}/beta"] = state[f"{at}{ours}.bias"]
            for ours, theirs in linears:
                for what in ("weight", "bias"):
                    found[f"{to}{theirs}/{what}"] = state[f"{at}{ours}.{what}"]
            for what in ("weight", "bias"):
                found[f"{to}self_attention/linear_0/{what}"] = joined(
                    side, layer, "self_attn", "qkv", what
                )
                if side == "decoder":
                    found[f"{to}attention/linear_1/{what}"] = joined(
                        side, layer, "encoder_attn", "kv", what
                    )
    for number in (1, 2):
        for what in ("weight", "bias"):
            found[f"encoder/conv{number}/{what}"] = state[
                f"model.encoder.conv{number}.{what}"
            ]
    return found


class TestCTranslate2:
    def test_every_weight_finds_its_place(self, whisper: tuple[Any, Any, Any]) -> None:
        model = whisper[0]
        found = whisper_state(variables(model))
        expected = model.state_dict()
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert torch.equal(found[name], value), name

    @pytest.mark.parametrize("how", ["missing", "quantised"])
    def test_a_file_that_is_none_is_refused(
        self, whisper: tuple[Any, Any, Any], how: str
    ) -> None:
        given = variables(whisper[0])
        name = "decoder/layer_0/attention/linear_0/weight"
        if how == "missing":
            del given[name]
        else:
            given[name] = given[name].astype(np.int8)
        with pytest.raises(ReferenceCorruptError, match="attention/linear_0"):
            whisper_state(given)


@pytest.mark.reference
def test_whisper_tiny_hears_a_clip_that_ships(tmp_path: Path) -> None:
    from sarguard.datasets import load_clips
    from sarguard.opinions import reference_transcriber, whisper_transcriber
    from sarguard.opinions.measure import RATE
    from sarguard.reference.training.hearing import word_error_rate

    clips = load_clips("demo")[:4]
    said = [clip.text for clip in clips]
    errors = {}
    for recogniser in (whisper_transcriber(progress=False), reference_transcriber()):
        heard = [str(recogniser.run(clip.load(), RATE)) for clip in clips]
        errors[recogniser.name] = word_error_rate(said, heard)
    assert errors["whisper-tiny-en"] < 0.3, errors
    assert errors["reference-hearing"] < 0.6, errors
