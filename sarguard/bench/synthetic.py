"""A model and clips that cost what real ones do: random weights, and noise.

What steering costs does not depend on what the weights are, so a GPU can be measured
without a checkpoint. The tokenizer is the reference model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import transformers
from torch import Tensor

from sarguard.calibration.build import calibrate
from sarguard.calibration.recipe import AudioPair, Recipe
from sarguard.errors import SteeringError
from sarguard.models.inputs import build_inputs
from sarguard.models.loading import LoadedModel, wrap_model
from sarguard.models.transformers_api import made_of
from sarguard.models.untyped import Config, PretrainedModel, Tokenizer
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Reply, Turn

SECONDS = 3.0
"""Length of a clip of noise."""
SEVEN_BILLION = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
"""The text model of Qwen2-Audio-7B; its audio encoder is the config's default."""


def random_qwen2_audio(
    tokenizer: Tokenizer,
    device: torch.device,
    *,
    text: dict[str, int],
    audio: dict[str, int] | None = None,
) -> LoadedModel:
    """Return a Qwen2-Audio in bfloat16 with random weights, made on a device.

    Args:
        tokenizer: Of the Qwen2-Audio kind: it has a token for audio.
        device: Where the weights are made and stay.
        text: Fields of the text model's config.
        audio: Fields of the audio encoder's config that are not the default.
    """
    config: Config = transformers.Qwen2AudioConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 8192,
            "use_sliding_window": False,
            **text,
        },
        audio_config=audio or {},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    extractor = transformers.WhisperFeatureExtractor(  # type: ignore[no-untyped-call]
        feature_size=config.audio_config.num_mel_bins
    )
    processor = transformers.Qwen2AudioProcessor(  # type: ignore[no-untyped-call]
        extractor, tokenizer
    )
    with torch.device(device):
        model = made_of(
            transformers.Qwen2AudioForConditionalGeneration,
            config,
            dtype=torch.bfloat16,
        )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return wrap_model(model, processor, name=_name(model))


def prompts(loaded: LoadedModel, rows: int) -> dict[str, Tensor]:
    """Return equal prompts of a clip of noise and a short text."""
    turn = Turn(role="user", text="Answer the caller.", audio=(noise(loaded),))
    return build_inputs(loaded, [[turn]] * rows)


def noise(
    loaded: LoadedModel, seconds: float = SECONDS, *, seed: int = 0
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return a clip of noise at a model's rate, mono float32, shape (samples,)."""
    samples = int(seconds * loaded.sampling_rate)
    drawn = np.random.default_rng(seed).normal(size=samples)
    return (0.05 * drawn).astype(np.float32)


def noise_bundle(loaded: LoadedModel) -> SteeringBundle:
    """Return a bundle that was calibrated on noise; it costs what a real one does."""
    pairs = [
        AudioPair(harmful=noise(loaded, seed=2 * i), safe=noise(loaded, seed=2 * i + 1))
        for i in range(3)
    ]
    return calibrate(loaded, pairs, Recipe(rank=1), needs_refusal=False)


def require_answer(reply: Reply) -> None:
    """Check that a request was answered.

    Raises:
        SteeringError: It was not.
    """
    if reply.outcome not in (Outcome.ANSWERED, Outcome.REFUSED):
        raise SteeringError(
            f"a caller got {reply.outcome.value} ({reply.guard.fault}): there is "
            "nothing to time"
        )


@contextmanager
def never_stopping(loaded: LoadedModel) -> Iterator[None]:
    """Let no token end an answer inside the block."""
    config = loaded.model.generation_config
    kept = config.eos_token_id
    config.eos_token_id = loaded.model.get_output_embeddings().weight.shape[0] + 1
    try:
        yield
    finally:
        config.eos_token_id = kept


def _name(model: PretrainedModel) -> str:
    billions = sum(p.numel() for p in model.parameters()) / 1e9
    return f"random Qwen2-Audio of {billions:.1f} G parameters"
