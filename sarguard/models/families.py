"""Facts about families of models, by the `model_type` of their config.

Every family is loaded, prompted and steered by the same code. The table holds the
limits that callers must keep, and the few facts that this code depends on. Of a family
that is not listed nothing is assumed that only a test could show.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sarguard.models.untyped import Config, Processor

DEFAULT_MAX_SECONDS = 600.0
"""Longest clip where the processor itself truncates nothing; it bounds memory."""

# The window of Whisper's feature extractor, which most families use.
_DEFAULT_WINDOW_SECONDS = 30.0

# These checkpoints name a wrapper that also generates speech; the text comes from its
# "thinker", which loads from the same files.
THINKERS = {
    "Qwen2_5OmniForConditionalGeneration": (
        "Qwen2_5OmniThinkerForConditionalGeneration"
    ),
    "Qwen2_5OmniModel": "Qwen2_5OmniThinkerForConditionalGeneration",
    "Qwen3OmniMoeForConditionalGeneration": (
        "Qwen3OmniMoeThinkerForConditionalGeneration"
    ),
}


class Evidence(Enum):
    """What a family was tested with; real weights only for the reference model."""

    REFERENCE = "the reference model, and tiny random models"
    FULL_PROCESSOR = "a tiny random model and the real processor"
    AUDIO_PROCESSOR = (
        "a tiny random model and the real processor without its picture half"
    )
    STUB_PROCESSOR = "a tiny random model; a stand-in for part of the processor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Facts about one family."""

    name: str = "unlisted"
    architecture: str = ""
    """The transformers class that is loaded."""
    max_seconds: float | None = None
    """Longest clip that is not truncated; None where the processor says it."""
    single_audio: bool = False
    """The processor insists on exactly one clip a prompt."""
    equal_lengths: bool = False
    """Padding changes a clip's embeddings: clips of a batch need equal lengths."""
    equal_modality: bool = False
    """A prompt with a clip and one without run different weights."""
    shares_prefix: bool = False
    """The cache of a prompt's beginning can be continued with plain tokens."""
    splices_clips: bool = False
    """What the decoder gets for a clip depends on the clip alone, and may be put into
    any prompt; the prompt's cache can be cut and continued at any column."""
    takes_arrays: bool = True
    """Clips are given as arrays; otherwise as encoded files."""
    needs: tuple[str, ...] = ()
    """Packages that its processor needs besides sarguard's own."""
    evidence: Evidence = Evidence.FULL_PROCESSOR
    note: str = ""


# These processors load their picture half whatever the prompt holds.
_VISION_PACKAGES = ("pillow", "torchvision")

# equal_lengths is set where batches of unequal clips changed the states of a tiny
# random model: by 0.4 of their norm (Fun-ASR-Nano), 0.04 (Phi-4), 0.03 (Gemma 3n,
# Dots 3) and 0.001 (Granite).
FAMILIES = {
    "qwen2_audio": Family(
        name="Qwen2-Audio",
        architecture="Qwen2AudioForConditionalGeneration",
        shares_prefix=True,
        splices_clips=True,
        evidence=Evidence.REFERENCE,
    ),
    "audioflamingo3": Family(
        name="Audio Flamingo 3",
        architecture="AudioFlamingo3ForConditionalGeneration",
        single_audio=True,
        shares_prefix=True,
        splices_clips=True,
        note="in no Auto class",
    ),
    "musicflamingo": Family(
        name="Music Flamingo",
        architecture="MusicFlamingoForConditionalGeneration",
        single_audio=True,
        splices_clips=True,
        note="in no Auto class",
    ),
    "voxtral": Family(
        name="Voxtral",
        architecture="VoxtralForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        # Its processor refuses arrays, and mistral-common makes the features itself.
        takes_arrays=False,
        needs=("mistral-common",),
        evidence=Evidence.STUB_PROCESSOR,
        note="375 tokens for every started 30 s",
    ),
    "qwen2_5_omni_thinker": Family(
        name="Qwen2.5-Omni",
        architecture="Qwen2_5OmniThinkerForConditionalGeneration",
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="the thinker of the full model; the window is its feature extractor's",
    ),
    "qwen3_omni_moe_thinker": Family(
        name="Qwen3-Omni",
        architecture="Qwen3OmniMoeThinkerForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="the thinker of the full model; experts",
    ),
    "phi4_multimodal": Family(
        name="Phi-4-multimodal",
        architecture="Phi4MultimodalForCausalLM",
        max_seconds=DEFAULT_MAX_SECONDS,
        equal_lengths=True,
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="load its speech adapter yourself, before you guard it",
    ),
    "gemma3n": Family(
        name="Gemma 3n",
        architecture="Gemma3nForConditionalGeneration",
        # What is longer is cut without a word.
        max_seconds=30.0,
        equal_lengths=True,
        needs=(*_VISION_PACKAGES, "timm"),
        evidence=Evidence.AUDIO_PROCESSOR,
        note="four streams, the active one is steered; 188 tokens a clip",
    ),
    "gemma4": Family(
        name="Gemma 4",
        architecture="Gemma4ForConditionalGeneration",
        # What is longer is cut without a word.
        max_seconds=30.0,
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="layers that share keys, or experts; scaled residual",
    ),
    "gemma4_unified": Family(
        name="Gemma 4 unified",
        architecture="Gemma4UnifiedForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="hears samples without an encoder; scaled residual",
    ),
    "granite_speech": Family(
        name="Granite Speech",
        architecture="GraniteSpeechForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        equal_lengths=True,
        equal_modality=True,
        needs=("torchaudio", "peft"),
        evidence=Evidence.STUB_PROCESSOR,
        note="adapter on for clips, off for text alone; scaled residual",
    ),
    "granite_speech_plus": Family(
        name="Granite Speech Plus",
        architecture="GraniteSpeechPlusForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        equal_lengths=True,
        equal_modality=True,
        needs=("torchaudio", "peft"),
        evidence=Evidence.STUB_PROCESSOR,
        note="as Granite Speech",
    ),
    "glmasr": Family(
        name="GLM-ASR",
        architecture="GlmAsrForConditionalGeneration",
        single_audio=True,
        shares_prefix=True,
        splices_clips=True,
        note="made to transcribe",
    ),
    "qwen3_asr": Family(
        name="Qwen3-ASR",
        architecture="Qwen3ASRForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        single_audio=True,
        splices_clips=True,
        note="made to transcribe",
    ),
    "fun_asr_nano": Family(
        name="Fun-ASR-Nano",
        architecture="FunAsrNanoForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        single_audio=True,
        equal_lengths=True,
        needs=("torchaudio",),
        evidence=Evidence.STUB_PROCESSOR,
        note="made to transcribe",
    ),
    "moss_transcribe_diarize": Family(
        name="MOSS-Transcribe-Diarize",
        architecture="MossTranscribeDiarizeForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        note="made to transcribe; writes time marks between the audio's tokens",
    ),
    "vibevoice_asr": Family(
        name="VibeVoice-ASR",
        architecture="VibeVoiceAsrForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        note="made to transcribe; its encoder's noise is switched off",
    ),
    "dots3_note": Family(
        name="Dots 3 Note",
        architecture="Dots3NoteForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        equal_lengths=True,
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="beyond 2048 tokens padding changes what its index selects",
    ),
    "inkling_mm_model": Family(
        name="Inkling",
        architecture="InklingForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="short convolutions with a cache of their own; no static cache",
    ),
    "muse_spark": Family(
        name="Muse Spark",
        architecture="MuseSparkForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="24 kHz; gated residual",
    ),
    "nemotron_h_omni": Family(
        name="Nemotron-H-Omni",
        architecture="NemotronH_Omni_Reasoning_V3",
        max_seconds=DEFAULT_MAX_SECONDS,
        needs=_VISION_PACKAGES,
        evidence=Evidence.AUDIO_PROCESSOR,
        note="Mamba, attention and experts each count as a layer",
    ),
    "nemo_speechlm": Family(
        name="Nemotron-3.5-Transcribe",
        architecture="Nemotron3_5TranscribeForConditionalGeneration",
        max_seconds=DEFAULT_MAX_SECONDS,
        single_audio=True,
        note="made to transcribe; Mamba, attention and experts",
    ),
}

UNSUPPORTED = {
    "voxtral_realtime": (
        "Voxtral-Realtime mixes sound into every step and takes no instruction: there "
        "is no last prompt token to calibrate or to steer from"
    ),
    "kyutai_speech_to_text": (
        "Kyutai STT starts from one empty token and mixes sound into every step: it "
        "takes no instruction, so there is nothing to calibrate or to steer from"
    ),
    "omniasr": (
        "OmniASR is told a language and takes no instruction: it transcribes, it does "
        "not answer"
    ),
}
"""Why a family cannot be guarded although its layers can be found."""

UNLISTED = Family(equal_lengths=True, equal_modality=True)
"""Any other family, with the assumptions that are safe without a test."""


def family_of(config: Config) -> Family:
    """Return the facts about the family that a model's config names."""
    return FAMILIES.get(getattr(config, "model_type", ""), UNLISTED)


def feature_extractor_of(processor: Processor) -> Processor:
    """Return the part of a processor that turns samples into features, or None."""
    # The second name is that of Phi-4 and Granite.
    for name in ("feature_extractor", "audio_processor"):
        found = getattr(processor, name, None)
        if getattr(found, "sampling_rate", None) is not None:
            return found
    return None


def audio_window_seconds(family: Family, processor: Processor) -> float:
    """Return the longest clip, in seconds, that is not truncated.

    Some processors truncate silently (Qwen2-Audio after 30 s), so the limit has to be
    enforced before they see the clip.
    """
    if family.max_seconds is not None:
        return family.max_seconds
    # Processors that cut a clip into windows have a limit over all of them, such as
    # Audio Flamingo and GLM-ASR; for others the extractor's window is the limit.
    seconds = getattr(processor, "max_audio_len", None)
    if seconds is not None:
        return float(seconds)
    extractor = feature_extractor_of(processor)
    return float(getattr(extractor, "chunk_length", None) or _DEFAULT_WINDOW_SECONDS)
