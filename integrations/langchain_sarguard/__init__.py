"""Guarded audio-language models for LangChain: chat model, runnable and voice stage."""

from __future__ import annotations

import importlib

from sarguard.extras import missing_extra

try:
    # Before the modules that stand on it, whose own errors would not say how to get it.
    importlib.import_module("langchain_core")
except ImportError as error:
    raise missing_extra("langchain_sarguard", "langchain", error) from error

from langchain_sarguard.audio_handles import (
    AudioStore,
    audio_message,
    default_audio_store,
    wav_bytes,
)
from langchain_sarguard.audio_runnables import SafeAudioRunnable
from langchain_sarguard.chat_models import ChatSafeAudio
from langchain_sarguard.errors import (
    AnswerFailedError,
    AnswerRefusedError,
    AudioHandleError,
    InvalidInputError,
    UnguardedModelError,
)
from langchain_sarguard.voice_stage import (
    AgentChunk,
    AgentEnd,
    Guardrail,
    Interruption,
    VoicePipelineStage,
)
from sarguard.audio import EndpointingOptions

__all__ = [
    "AgentChunk",
    "AgentEnd",
    "AnswerFailedError",
    "AnswerRefusedError",
    "AudioHandleError",
    "AudioStore",
    "ChatSafeAudio",
    "EndpointingOptions",
    "Guardrail",
    "Interruption",
    "InvalidInputError",
    "SafeAudioRunnable",
    "UnguardedModelError",
    "VoicePipelineStage",
    "audio_message",
    "default_audio_store",
    "wav_bytes",
]
