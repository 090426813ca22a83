"""Every family of `sarguard models`, with what builds a tiny instance of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import torch

from sarguard.models.loading import LoadedModel, wrap_model
from tests import tiny, tiny_seeing, tiny_standins, tiny_whole
from tests.tiny import Model, Processor

Builder: TypeAlias = Callable[..., tuple[Model, Processor]]

BUILDERS: dict[str, Builder] = {
    "qwen2_audio": tiny.qwen2_audio,
    "qwen2_audio on llama": tiny_whole.qwen2_audio_on_llama,
    "audioflamingo3": tiny.audio_flamingo,
    "musicflamingo": tiny_whole.music_flamingo,
    "voxtral": tiny_standins.voxtral,
    "qwen2_5_omni_thinker": tiny_seeing.qwen2_5_omni,
    "qwen3_omni_moe_thinker": tiny_seeing.qwen3_omni_moe,
    "phi4_multimodal": tiny_seeing.phi4_multimodal,
    "gemma3n": tiny_seeing.gemma3n,
    "gemma4": tiny_seeing.gemma4,
    "gemma4 with experts": tiny_seeing.gemma4_moe,
    "gemma4_unified": tiny_seeing.gemma4_unified,
    "granite_speech": tiny_standins.granite_speech,
    "granite_speech_plus": tiny_standins.granite_speech_plus,
    "glmasr": tiny.glm_asr,
    "qwen3_asr": tiny_whole.qwen3_asr,
    "fun_asr_nano": tiny_standins.fun_asr_nano,
    "moss_transcribe_diarize": tiny_whole.moss_transcribe_diarize,
    "vibevoice_asr": tiny_whole.vibevoice_asr,
    "dots3_note": tiny_seeing.dots3_note,
    "inkling_mm_model": tiny_seeing.inkling,
    "muse_spark": tiny_seeing.muse_spark,
    "nemotron_h_omni": tiny_seeing.nemotron_h_omni,
    "nemo_speechlm": tiny_whole.nemotron_transcribe,
}
"""By `model_type`, with a word more where a family comes in two shapes."""


@functools.cache
def shared(name: str) -> LoadedModel:
    """Return a tiny model for tests that leave it as they found it."""
    return fresh(name)


def fresh(name: str, *, seed: int = 0) -> LoadedModel:
    """Return a new tiny model; equal seeds give equal weights."""
    torch.manual_seed(seed)
    model, processor = BUILDERS[name]()
    return wrap_model(model, processor, name=f"tiny-{name}")
