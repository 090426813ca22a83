"""What sets a family apart, by the `model_type` of its config.

A family that is not listed is spoken to in the plain way: clips of up to the
feature extractor's window, any number a prompt, nothing shared between prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

from sarguard.models.untyped import Config, Processor

_DEFAULT_WINDOW_SECONDS = 30.0

# These checkpoints name a wrapper that also speaks; the text comes from its
# thinker, which loads from the same files.
THINKERS = {
    "Qwen2_5OmniForConditionalGeneration": (
        "Qwen2_5OmniThinkerForConditionalGeneration"
    ),
    "Qwen2_5OmniModel": "Qwen2_5OmniThinkerForConditionalGeneration",
    "Qwen3OmniMoeForConditionalGeneration": (
        "Qwen3OmniMoeThinkerForConditionalGeneration"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Hold the facts about one family."""

    single_audio: bool = False
    """The processor insists on exactly one clip a prompt."""
    shares_prefix: bool = False
    """The cache of a prompt's beginning can be continued with plain tokens."""


_FAMILIES = {
    "qwen2_audio": Family(shares_prefix=True),
    "audioflamingo3": Family(single_audio=True, shares_prefix=True),
    "musicflamingo": Family(single_audio=True),
    "glmasr": Family(single_audio=True, shares_prefix=True),
    "qwen3_asr": Family(single_audio=True),
    "fun_asr_nano": Family(single_audio=True),
}


def family_of(config: Config) -> Family:
    """Return the facts about the family that a model's config names."""
    return _FAMILIES.get(getattr(config, "model_type", ""), Family())


def audio_window_seconds(processor: Processor) -> float:
    """Return the longest clip, in seconds, that the processor does not cut.

    Some processors cut a long clip without a word (Qwen2-Audio after 30 s), so
    the window is a limit to enforce before they see the clip.
    """
    whole = getattr(processor, "max_audio_len", None)
    if whole is not None:
        return float(whole)
    extractor = processor.feature_extractor
    return float(getattr(extractor, "chunk_length", None) or _DEFAULT_WINDOW_SECONDS)
