"""Use a guarded audio-language model as a LangChain chat model."""

from __future__ import annotations

from langchain_sarguard.audio_handles import audio_message, wav_bytes
from langchain_sarguard.chat_models import ChatSafeAudio
from langchain_sarguard.errors import (
    AnswerRefusedError,
    AnswerThrownAwayError,
    AudioHandleError,
    InvalidInputError,
    UnguardedModelError,
)
from langchain_sarguard.runnables import SafeAudioRunnable
from langchain_sarguard.stage import SafeAudioStage
from langchain_sarguard.vault import AudioVault, shared_vault
from sarguard.audio.endpointing import EndpointingOptions

__all__ = [
    "AnswerRefusedError",
    "AnswerThrownAwayError",
    "AudioHandleError",
    "AudioVault",
    "ChatSafeAudio",
    "EndpointingOptions",
    "InvalidInputError",
    "SafeAudioRunnable",
    "SafeAudioStage",
    "UnguardedModelError",
    "audio_message",
    "shared_vault",
    "wav_bytes",
]
