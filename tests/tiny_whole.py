"""Tiny models of families whose whole processor can be built without a download."""

from __future__ import annotations

import transformers
from transformers.models.moss_transcribe_diarize import (
    feature_extraction_moss_transcribe_diarize as moss,
)
from transformers.models.qwen3_asr import feature_extraction_qwen3_asr as qwen3

from tests.tiny import TEXT, Model, Processor, chatml, extractor, finish, tokenizer

WHISPER = {
    "num_mel_bins": 80,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_size": 32,
}
MAMBA = {
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 2,
    "chunk_size": 32,
    "use_mamba_kernels": False,
    "head_dim": 16,
    "n_routed_experts": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "layers_block_type": ["linear_attention", "full_attention", "moe"],
}


def qwen2_audio_on_llama(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Qwen2-Audio around a Llama, as the reference model is."""
    words = tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    config = transformers.Qwen2AudioConfig(
        text_config=_text("llama", layers, words),
        audio_config={
            "num_mel_bins": 80,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
        },
        audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = transformers.Qwen2AudioProcessor(extractor(80), words)
    model = transformers.Qwen2AudioForConditionalGeneration(config)
    return finish(model, words), processor


def music_flamingo(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Music Flamingo, which is in no Auto map."""
    words = tokenizer("<sound>", "<|sound_bos|>", "<|sound_eos|>")
    config = transformers.MusicFlamingoConfig(
        text_config=_text("qwen2", layers, words),
        audio_config={**WHISPER, "model_type": "audioflamingo3_encoder"},
        audio_token_id=words.convert_tokens_to_ids("<sound>"),
        audio_bos_token_id=words.convert_tokens_to_ids("<|sound_bos|>"),
        audio_eos_token_id=words.convert_tokens_to_ids("<|sound_eos|>"),
    )
    processor = transformers.MusicFlamingoProcessor(
        extractor(80), words, chat_template=chatml("<sound>")
    )
    model = transformers.MusicFlamingoForConditionalGeneration(config)
    return finish(model, words), processor


def qwen3_asr(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Qwen3-ASR."""
    words = tokenizer(
        audio_token="<|audio_pad|>",
        audio_bos_token="<|audio_start|>",
        audio_eos_token="<|audio_end|>",
    )
    config = transformers.Qwen3ASRConfig(
        text_config={**_text("qwen3", layers, words), "head_dim": 32},
        audio_config={
            "num_mel_bins": 80,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "output_dim": 64,
            "downsample_hidden_size": 16,
        },
        audio_token_id=words.convert_tokens_to_ids("<|audio_pad|>"),
        tie_word_embeddings=False,
    )
    processor = transformers.Qwen3ASRProcessor(
        qwen3.Qwen3ASRFeatureExtractor(feature_size=80),
        words,
        chat_template=chatml("<|audio_pad|>"),
    )
    model = transformers.Qwen3ASRForConditionalGeneration(config)
    return finish(model, words), processor


def moss_transcribe_diarize(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny MOSS, which writes time marks between the audio's tokens."""
    words = tokenizer("<|audio_pad|>", "<|audio_start|>", "<|audio_end|>")
    config = transformers.MossTranscribeDiarizeConfig(
        text_config={**_text("qwen3", layers, words), "head_dim": 32},
        audio_config=WHISPER,
        audio_token_id=words.convert_tokens_to_ids("<|audio_pad|>"),
        tie_word_embeddings=False,
    )
    processor = transformers.MossTranscribeDiarizeProcessor(
        moss.MossTranscribeDiarizeFeatureExtractor(),
        words,
        chat_template=chatml("<|audio_pad|>"),
    )
    model = transformers.MossTranscribeDiarizeForConditionalGeneration(config)
    return finish(model, words), processor


def vibevoice_asr(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny VibeVoice-ASR, whose encoder draws noise."""
    words = tokenizer(
        "<|box_start|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|AUDIO_DURATION|>",
    )
    encoder = {
        "hidden_size": 16,
        "num_filters": 4,
        "downsampling_ratios": [8, 20, 20],
        "depths": [1, 1, 1, 1],
    }
    config = transformers.VibeVoiceAsrConfig(
        text_config=_text("qwen2", layers, words),
        acoustic_tokenizer_encoder_config={
            **encoder,
            "model_type": "vibevoice_acoustic_tokenizer_encoder",
        },
        semantic_tokenizer_encoder_config={
            **encoder,
            "model_type": "vibevoice_acoustic_tokenizer_encoder",
        },
        audio_token_id=words.convert_tokens_to_ids("<|box_start|>"),
        audio_bos_token_id=words.convert_tokens_to_ids("<|object_ref_start|>"),
        audio_eos_token_id=words.convert_tokens_to_ids("<|object_ref_end|>"),
    )
    processor = transformers.VibeVoiceAsrProcessor(
        transformers.VibeVoiceAcousticTokenizerFeatureExtractor(),
        words,
        chat_template=chatml("<|box_start|>"),
    )
    model = transformers.VibeVoiceAsrForConditionalGeneration(config)
    return finish(model, words), processor


def nemotron_transcribe(*, layers: int = 3) -> tuple[Model, Processor]:
    """Return a tiny Nemotron-3.5-Transcribe: Mamba, attention and experts."""
    words = tokenizer("<|audio|>")
    encoder = {**WHISPER, "num_mel_bins": 128}
    config = transformers.Nemotron3_5TranscribeConfig(
        text_config={**_text("nemotron_h", layers, words), **MAMBA},
        audio_config={
            "asr_config": encoder,
            "diarization_config": {
                "model_type": "nemotron3_diarization",
                "audio_config": encoder,
                "head_config": {
                    "hidden_size": 16,
                    "num_speakers": 4,
                    "audio_hidden_size": 32,
                },
                "streaming_config": {"num_speakers": 4},
            },
        },
        word_timestamp_config=None,
        audio_token_id=words.convert_tokens_to_ids("<|audio|>"),
    )
    processor = transformers.Nemotron3_5TranscribeProcessor(
        transformers.ParakeetFeatureExtractor(feature_size=128),
        words,
        tokenizer(),
        chat_template=chatml("<|audio|>"),
    )
    model = transformers.Nemotron3_5TranscribeForConditionalGeneration(config)
    return finish(model, words), processor


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
