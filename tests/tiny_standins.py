"""Tiny models of families whose processor needs what cannot be installed here.

The models are the library's own. What stands in for the missing half is small: log
energies in place of torchaudio's filters, a plain prompt writer in place of
mistral-common's.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from numpy.typing import NDArray
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.models.fun_asr_nano.feature_extraction_fun_asr_nano import (
    FunAsrNanoFeatureExtractor,
)
from transformers.models.fun_asr_nano.processing_fun_asr_nano import FunAsrNanoProcessor
from transformers.models.granite_speech.processing_granite_speech import (
    GraniteSpeechProcessor,
)

from tests.tiny import (
    RATE,
    TEXT,
    Model,
    Processor,
    chatml,
    extractor,
    finish,
    tokenizer,
)
from tests.tiny_whole import WHISPER

_CHUNK_TOKENS = 375


def _text(
    model_type: str, layers: int, words: transformers.PreTrainedTokenizerFast
) -> dict[str, object]:
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "vocab_size": len(words),
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        **TEXT,
    }


def log_energies(samples: torch.Tensor, frames: int, bands: int) -> torch.Tensor:
    """Return log energies, shape (frames, bands), of a clip's spectrum."""
    spectrum = torch.stft(
        samples, 512, hop_length=160, window=torch.ones(512), return_complex=True
    ).abs()
    bins = spectrum[: (spectrum.shape[0] // bands) * bands]
    energies = bins.reshape(bands, -1, spectrum.shape[1]).mean(dim=1)
    return energies.clamp(min=1e-5).log10().T[:frames] / 4 + 1


class GraniteExtractor(SequenceFeatureExtractor):
    """Hear as Granite's extractor does, with other filters."""

    def __init__(self) -> None:
        super().__init__(feature_size=80, sampling_rate=RATE, padding_value=0.0)

    def __call__(
        self, audios: Sequence[NDArray[np.float32]], device: str | None = None
    ) -> BatchFeature:
        longest = max(len(clip) for clip in audios)
        rows, sizes = [], []
        for clip in audios:
            samples = torch.zeros(longest)
            samples[: len(clip)] = torch.from_numpy(np.asarray(clip))
            frames = longest // 160 + 1
            rows.append(log_energies(samples, frames - frames % 2, 80).reshape(-1, 160))
            sizes.append(3 * math.ceil((len(clip) // 160 + 1) // 2 / 15))
        mask = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
        return BatchFeature(
            {
                "input_features": torch.stack(rows),
                "audio_embed_sizes": sizes,
                "input_features_mask": mask,
            }
        )


class FunExtractor(FunAsrNanoFeatureExtractor):
    """Hear as Fun-ASR's extractor does, with other filters."""

    def _extract_fbank_features(self, waveform: torch.Tensor) -> torch.Tensor:
        return log_energies(waveform, waveform.shape[0] // 160, 80)


def granite_speech(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Granite Speech, which scales what its layers add."""
    return _granite("GraniteSpeech", layers, {})


def granite_speech_plus(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Granite Speech Plus."""
    return _granite("GraniteSpeechPlus", layers, {"cat_hidden_layers": None})


def _granite(
    name: str, layers: int, encoder: dict[str, Any]
) -> tuple[Model, Processor]:
    words = tokenizer(audio_token="<|audio|>")
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **_text("granite", layers, words),
            "residual_multiplier": 0.22,
            "embedding_multiplier": 12.0,
        },
        encoder_config={
            "num_layers": 2,
            "hidden_dim": 32,
            "num_heads": 2,
            "context_size": 40,
            "max_pos_emb": 64,
            **encoder,
        },
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "encoder_hidden_size": 32,
        },
        audio_token_index=words.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
        tie_word_embeddings=False,
    )
    processor = GraniteSpeechProcessor(
        GraniteExtractor(), words, chat_template=chatml("<|audio|>")
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    return finish(model, words), processor


def fun_asr_nano(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Fun-ASR-Nano."""
    words = tokenizer("<|object_ref_start|>")
    config = transformers.FunAsrNanoConfig(
        text_config={**_text("qwen3", layers, words), "head_dim": 32},
        audio_config={
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_timestamp_prediction_layers": 1,
        },
        adaptor_config={
            "hidden_size": 64,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "projector_hidden_size": 32,
        },
        audio_token_id=words.convert_tokens_to_ids("<|object_ref_start|>"),
        tie_word_embeddings=False,
    )
    processor = FunAsrNanoProcessor(
        FunExtractor(), words, chat_template=chatml("<|object_ref_start|>")
    )
    model = transformers.FunAsrNanoForConditionalGeneration(config)
    return finish(model, words), processor


class VoxtralProcessor:
    """Speak like Voxtral's processor: it refuses arrays and has no template."""

    audio_token = "[AUDIO]"

    def __init__(self, words: transformers.PreTrainedTokenizerFast) -> None:
        self.tokenizer = words
        self.feature_extractor = extractor(80)
        self.audio_token_id = words.convert_tokens_to_ids(self.audio_token)

    def apply_chat_template(
        self,
        conversations: Sequence[Sequence[dict[str, Any]]],
        *,
        add_generation_prompt: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **ignored: object,
    ) -> BatchFeature:
        # The real one drops processor_kwargs as soon as it meets a stranger.
        strangers = set(ignored) - {"tokenize", "return_dict", "return_tensors"}
        if strangers:
            raise TypeError(f"unexpected {sorted(strangers)}")
        features: list[torch.Tensor] = []
        prompts = [self._write(turns, features) for turns in conversations]
        batch = self.tokenizer(
            prompts, padding=True, padding_side="left", return_tensors="pt"
        )
        content: dict[str, Any] = {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
        }
        if features:
            content["input_features"] = torch.cat(features)
        return BatchFeature(content)

    def _write(
        self, turns: Sequence[dict[str, Any]], features: list[torch.Tensor]
    ) -> str:
        said = []
        for turn in turns:
            for part in turn["content"]:
                if part["type"] == "text":
                    said.append(part["text"])
                    continue
                if "base64" not in part:
                    raise ValueError("Audio content must be specified")
                features.append(self._hear(part["base64"]))
                said.append(self.audio_token * _CHUNK_TOKENS * len(features[-1]))
        return f"[INST]{''.join(said)}[/INST]"

    def _hear(self, encoded: str) -> torch.Tensor:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(encoded)))
        if rate != RATE:
            raise ValueError(f"a clip at {rate} Hz")
        chunks = max(1, math.ceil(len(samples) / (30 * RATE)))
        whole = np.zeros(chunks * 30 * RATE, dtype=np.float32)
        whole[: len(samples)] = samples
        parts = np.split(whole, chunks)
        heard = self.feature_extractor(parts, sampling_rate=RATE, return_tensors="pt")
        return heard["input_features"]


def voxtral(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Voxtral, which spends 375 tokens on every half minute."""
    words = tokenizer("[AUDIO]", "[INST]", "[/INST]")
    config = transformers.VoxtralConfig(
        text_config={**_text("llama", layers, words), "head_dim": 32},
        audio_config={**WHISPER, "intermediate_size": 128},
        audio_token_id=words.convert_tokens_to_ids("[AUDIO]"),
    )
    model = transformers.VoxtralForConditionalGeneration(config)
    return finish(model, words), VoxtralProcessor(words)
