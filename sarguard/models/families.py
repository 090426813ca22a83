"""What is known about a family of models, by the `model_type` of its config.

Every family is loaded, spoken to and steered by the same code; what is written here
are limits to hold callers to, and the few facts that code has to ask for. A model of
a family that is not listed is spoken to in the plain way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sarguard.models.untyped import Config, Processor

UNCUT_SECONDS = 600.0
"""Longest clip where the processor itself cuts nothing; it bounds memory."""

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


class Evidence(Enum):
    """Say what a family was tested with; no weights but the reference model's."""

    REFERENCE = "the reference model, and tiny random models"
    WHOLE = "a tiny random model and the real processor"
    HEARING = "a tiny random model and the real processor without its picture half"
    STAND_IN = "a tiny random model; a stand-in for part of the processor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Hold the facts about one family."""

    name: str = "unlisted"
    architecture: str = ""
    """The transformers class that is loaded."""
    seconds: float | None = None
    """Longest clip that is heard whole; None where the processor says it."""
    single_audio: bool = False
    """The processor insists on exactly one clip a prompt."""
    equal_lengths: bool = False
    """Padding a clip changes what is heard: rows of a batch need equal clips."""
    equal_modality: bool = False
    """A prompt with a clip and one without run different weights."""
    shares_prefix: bool = False
    """The cache of a prompt's beginning can be continued with plain tokens."""
    takes_arrays: bool = True
    """Clips are given as arrays; otherwise as encoded files."""
    needs: tuple[str, ...] = ()
    """Packages that its processor needs besides sarguard's own."""
    evidence: Evidence = Evidence.WHOLE
    note: str = ""


_EYES = ("pillow", "torchvision")

FAMILIES = {
    "qwen2_audio": Family(
        name="Qwen2-Audio",
        architecture="Qwen2AudioForConditionalGeneration",
        shares_prefix=True,
        evidence=Evidence.REFERENCE,
    ),
    "audioflamingo3": Family(
        name="Audio Flamingo 3",
        architecture="AudioFlamingo3ForConditionalGeneration",
        single_audio=True,
        shares_prefix=True,
        note="in no Auto class",
    ),
    "musicflamingo": Family(
        name="Music Flamingo",
        architecture="MusicFlamingoForConditionalGeneration",
        single_audio=True,
        note="in no Auto class",
    ),
    "voxtral": Family(
        name="Voxtral",
        architecture="VoxtralForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        takes_arrays=False,
        needs=("mistral-common",),
        evidence=Evidence.STAND_IN,
        note="375 tokens for every started 30 s",
    ),
    "qwen2_5_omni_thinker": Family(
        name="Qwen2.5-Omni",
        architecture="Qwen2_5OmniThinkerForConditionalGeneration",
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="the thinker of the full model; the window is its feature extractor's",
    ),
    "qwen3_omni_moe_thinker": Family(
        name="Qwen3-Omni",
        architecture="Qwen3OmniMoeThinkerForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="the thinker of the full model; experts",
    ),
    "phi4_multimodal": Family(
        name="Phi-4-multimodal",
        architecture="Phi4MultimodalForCausalLM",
        seconds=UNCUT_SECONDS,
        equal_lengths=True,
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="load its speech adapter yourself, before you guard it",
    ),
    "gemma3n": Family(
        name="Gemma 3n",
        architecture="Gemma3nForConditionalGeneration",
        seconds=30.0,
        equal_lengths=True,
        needs=(*_EYES, "timm"),
        evidence=Evidence.HEARING,
        note="four streams, the active one is steered; 188 tokens a clip",
    ),
    "gemma4": Family(
        name="Gemma 4",
        architecture="Gemma4ForConditionalGeneration",
        seconds=30.0,
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="layers that share keys, or experts; scaled residual",
    ),
    "gemma4_unified": Family(
        name="Gemma 4 unified",
        architecture="Gemma4UnifiedForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="hears samples without an encoder; scaled residual",
    ),
    "granite_speech": Family(
        name="Granite Speech",
        architecture="GraniteSpeechForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        equal_lengths=True,
        equal_modality=True,
        needs=("torchaudio", "peft"),
        evidence=Evidence.STAND_IN,
        note="adapter on for clips, off for text alone; scaled residual",
    ),
    "granite_speech_plus": Family(
        name="Granite Speech Plus",
        architecture="GraniteSpeechPlusForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        equal_lengths=True,
        equal_modality=True,
        needs=("torchaudio", "peft"),
        evidence=Evidence.STAND_IN,
        note="as Granite Speech",
    ),
    "glmasr": Family(
        name="GLM-ASR",
        architecture="GlmAsrForConditionalGeneration",
        single_audio=True,
        shares_prefix=True,
        note="made to transcribe",
    ),
    "qwen3_asr": Family(
        name="Qwen3-ASR",
        architecture="Qwen3ASRForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        single_audio=True,
        note="made to transcribe",
    ),
    "fun_asr_nano": Family(
        name="Fun-ASR-Nano",
        architecture="FunAsrNanoForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        single_audio=True,
        equal_lengths=True,
        needs=("torchaudio",),
        evidence=Evidence.STAND_IN,
        note="made to transcribe",
    ),
    "moss_transcribe_diarize": Family(
        name="MOSS-Transcribe-Diarize",
        architecture="MossTranscribeDiarizeForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        note="made to transcribe; writes time marks between the audio's tokens",
    ),
    "vibevoice_asr": Family(
        name="VibeVoice-ASR",
        architecture="VibeVoiceAsrForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        note="made to transcribe; its encoder's noise is switched off",
    ),
    "dots3_note": Family(
        name="Dots 3 Note",
        architecture="Dots3NoteForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        equal_lengths=True,
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="beyond 2048 tokens padding changes what its index selects",
    ),
    "inkling_mm_model": Family(
        name="Inkling",
        architecture="InklingForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="short convolutions with a cache of their own; no static cache",
    ),
    "muse_spark": Family(
        name="Muse Spark",
        architecture="MuseSparkForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="24 kHz; gated residual",
    ),
    "nemotron_h_omni": Family(
        name="Nemotron-H-Omni",
        architecture="NemotronH_Omni_Reasoning_V3",
        seconds=UNCUT_SECONDS,
        needs=_EYES,
        evidence=Evidence.HEARING,
        note="Mamba, attention and experts each count as a layer",
    ),
    "nemo_speechlm": Family(
        name="Nemotron-3.5-Transcribe",
        architecture="Nemotron3_5TranscribeForConditionalGeneration",
        seconds=UNCUT_SECONDS,
        single_audio=True,
        note="made to transcribe; Mamba, attention and experts",
    ),
}

REFUSED = {
    "voxtral_realtime": (
        "Voxtral-Realtime mixes sound into every step and takes no instruction: there "
        "is no last prompt token to calibrate or to steer from"
    ),
    "kyutai_speech_to_text": (
        "Kyutai STT starts from one empty token and mixes sound into every step: it "
        "takes no instruction, so there is nothing to calibrate or to steer from"
    ),
}
"""Families whose layers can be found and that still cannot be guarded, and why."""


UNLISTED = Family(equal_lengths=True, equal_modality=True)
"""What is assumed of any other family: nothing that only a test could show."""


def family_of(config: Config) -> Family:
    """Return the facts about the family that a model's config names."""
    return FAMILIES.get(getattr(config, "model_type", ""), UNLISTED)


def audio_half(processor: Processor) -> Processor:
    """Return the part of a processor that turns samples into features, or None."""
    for name in ("feature_extractor", "audio_processor"):
        found = getattr(processor, name, None)
        if getattr(found, "sampling_rate", None) is not None:
            return found
    return None


def audio_window_seconds(family: Family, processor: Processor) -> float:
    """Return the longest clip, in seconds, that is heard whole.

    Some processors cut a long clip without a word (Qwen2-Audio after 30 s), so
    the window is a limit to enforce before they see the clip.
    """
    if family.seconds is not None:
        return family.seconds
    whole = getattr(processor, "max_audio_len", None)
    if whole is not None:
        return float(whole)
    extractor = audio_half(processor)
    return float(getattr(extractor, "chunk_length", None) or _DEFAULT_WINDOW_SECONDS)
