"""Use a guarded audio-language model as a LangChain chat model."""

from __future__ import annotations

from langchain_sarguard.chat_models import ChatSafeAudio
from langchain_sarguard.errors import AnswerRefusedError, AnswerThrownAwayError

__all__ = ["AnswerRefusedError", "AnswerThrownAwayError", "ChatSafeAudio"]
