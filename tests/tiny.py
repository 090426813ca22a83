"""Tiny random models of real architectures, built from configs without a download."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sarguard.calibration.recipe import AudioPair
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel, wrap_model
from sarguard.types import Turn

Model: TypeAlias = Any
Processor: TypeAlias = Any

RATE = 16_000
_CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}AUDIO_TOKEN"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
}


def ask(loaded: LoadedModel, *texts: str) -> dict[str, torch.Tensor]:
    """Return the inputs of a batch: half a second of sound with each text."""
    heard = clip(0.5)
    return build_inputs(
        loaded, [[Turn(role="user", text=text, audio=(heard,))] for text in texts]
    )


def clip(
    seconds: float = 1.0, *, pitch: float = 220.0, seed: int = 0
) -> NDArray[np.float32]:
    """Return a tone with harmonics and a little noise, in float32."""
    time = np.arange(int(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in (1, 2, 3))
    noise = np.random.default_rng(seed).normal(size=time.shape)
    return (0.2 * tone + 0.02 * noise).astype(np.float32)


def pairs(count: int) -> list[AudioPair]:
    """Return pairs of clips that differ in pitch and length."""
    return [
        AudioPair(
            harmful=clip(0.4 + 0.05 * i, pitch=150 + 31 * i, seed=i),
            safe=clip(0.5 + 0.03 * i, pitch=170 + 37 * i, seed=100 + i),
        )
        for i in range(count)
    ]


def tokenizer(*audio_tokens: str, **named: str) -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with ChatML control tokens.

    Named tokens become attributes, such as `audio_token`, and have ids too.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=named,
    )
    every = [*_CONTROL, *audio_tokens, *named.values()]
    made.add_special_tokens({"additional_special_tokens": every})
    return made


def chatml(audio_token: str) -> str:
    """Return a ChatML template with a token where a clip is heard."""
    return _CHATML.replace("AUDIO_TOKEN", audio_token)


def extractor(bins: int) -> transformers.WhisperFeatureExtractor:
    """Return a Whisper feature extractor of so many mel bins."""
    return transformers.WhisperFeatureExtractor(feature_size=bins)


def qwen2_audio(*, layers: int = 3, **text: object) -> tuple[Model, Processor]:
    """Return a tiny Qwen2-Audio and its processor."""
    words = tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    processor = transformers.Qwen2AudioProcessor(extractor(80), words)
    config = transformers.Qwen2AudioConfig(
        text_config={
            "model_type": "qwen2",
            "num_hidden_layers": layers,
            "vocab_size": len(words),
            "use_sliding_window": False,
            **TEXT,
            **text,
        },
        audio_config={
            "num_mel_bins": 80,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
        },
        audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = transformers.Qwen2AudioForConditionalGeneration(config)
    return finish(model, words), processor


def audio_flamingo(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Audio Flamingo 3 and its processor."""
    words = tokenizer("<sound>")
    processor = transformers.AudioFlamingo3Processor(
        extractor(80), words, chat_template=chatml("<sound>")
    )
    config = transformers.AudioFlamingo3Config(
        text_config={
            "model_type": "qwen2",
            "num_hidden_layers": layers,
            "vocab_size": len(words),
            **TEXT,
        },
        audio_config={
            "num_mel_bins": 80,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "hidden_size": 32,
        },
        audio_token_id=words.convert_tokens_to_ids("<sound>"),
    )
    model = transformers.AudioFlamingo3ForConditionalGeneration(config)
    return finish(model, words), processor


def glm_asr(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny GLM-ASR, whose text model is a Llama, and its processor."""
    words = tokenizer("<|pad|>")
    processor = transformers.GlmAsrProcessor(
        extractor(80), words, chat_template=chatml("<|pad|>")
    )
    config = transformers.GlmAsrConfig(
        text_config={
            "model_type": "llama",
            "num_hidden_layers": layers,
            "vocab_size": len(words),
            "eos_token_id": words.eos_token_id,
            **TEXT,
        },
        audio_config={
            "num_mel_bins": 80,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 128,
            "hidden_size": 32,
        },
        audio_token_id=words.convert_tokens_to_ids("<|pad|>"),
    )
    model = transformers.GlmAsrForConditionalGeneration(config)
    return finish(model, words), processor


FAMILIES: dict[str, Callable[..., tuple[Model, Processor]]] = {
    "qwen2_audio": qwen2_audio,
    "audioflamingo3": audio_flamingo,
    "glmasr": glm_asr,
}


def build(
    family: str = "qwen2_audio", *, seed: int = 0, **options: object
) -> LoadedModel:
    """Return a fresh tiny model of a family; equal seeds give equal weights."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[family](**options)
    return wrap_model(model, processor, name=f"tiny-{family}")


@functools.cache
def shared(family: str = "qwen2_audio") -> LoadedModel:
    """Return a tiny model for tests that leave it as they found it."""
    return build(family)


@contextlib.contextmanager
def leaning(loaded: LoadedModel, *characters: str) -> Iterator[None]:
    """Make a model like some characters better than all others, the first most."""

    def lean(_: object, __: object, scores: torch.Tensor) -> None:
        for rank, character in enumerate(characters):
            (token,) = loaded.tokenizer.encode(character, add_special_tokens=False)
            scores[..., token] += 1000.0 - 100 * rank

    hook = loaded.model.get_output_embeddings().register_forward_hook(lean)
    try:
        yield
    finally:
        hook.remove()


def finish(model: Model, words: transformers.PreTrainedTokenizerFast) -> Model:
    """Return a model in float32 that stops where its tokenizer says."""
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    return model.float().eval()
