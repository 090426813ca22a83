"""The processor: SmolLM2's tokenizer, three audio tokens, and a chat template."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sarguard.errors import ReferenceCorruptError
from sarguard.reference.gguf_text import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor

AUDIO, AUDIO_START, AUDIO_END = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
AUDIO_TOKENS = (AUDIO, AUDIO_START, AUDIO_END)
END_OF_TURN = "<|im_end|>"
MEL_BINS = 80
SYSTEM = "You are a helpful assistant."


def chat_template() -> str:
    """Return the template: ChatML, a clip as `<|audio_bos|><|AUDIO|><|audio_eos|>`."""
    return files(__package__).joinpath("chat_template.jinja").read_text("utf-8")


def build_tokenizer(vocabulary: Vocabulary, context: int) -> PreTrainedTokenizerFast:
    """Return SmolLM2's byte-level BPE with the audio tokens after its last id."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    merges = [_pair(merge) for merge in vocabulary.merges]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in (*vocabulary.control, *AUDIO_TOKENS)
        ]
    )
    tokenizer_class: Any = PreTrainedTokenizerFast  # its constructor is untyped
    tokenizer: PreTrainedTokenizerFast = tokenizer_class(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token=END_OF_TURN,
        pad_token=END_OF_TURN,
        unk_token="<|endoftext|>",
        extra_special_tokens={
            "audio_token": AUDIO,
            "audio_bos_token": AUDIO_START,
            "audio_eos_token": AUDIO_END,
        },
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    return tokenizer


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioProcessor:
    """Join the tokenizer with Whisper's log-mel features at 16 kHz."""
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    template = chat_template()
    tokenizer.chat_template = template
    processor_class: Any = Qwen2AudioProcessor
    features_class: Any = WhisperFeatureExtractor
    processor: Qwen2AudioProcessor = processor_class(
        feature_extractor=features_class(feature_size=MEL_BINS),
        tokenizer=tokenizer,
        chat_template=template,
    )
    return processor


def _pair(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise ReferenceCorruptError(
            f"The vocabulary holds the merge {merge!r}, which is not a pair of tokens."
        )
    return left, right
