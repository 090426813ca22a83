"""Whether steering works here: tried on a tiny random model, without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sarguard.cli.checks.finding import Finding, note, ok, problem

if TYPE_CHECKING:
    from sarguard.models.loading import LoadedModel

_NAME = "steering"
_ALPHA = 1.0
_TOKENS = 3
_SEED = 5
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_AUDIO = {
    "num_mel_bins": 80,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 32,
}


def check_steering() -> Finding:
    """Guard a tiny model, and have it answer."""
    # What an install lacks or does otherwise may raise anything, at any line.
    try:
        found = try_steering()
    except Exception as error:
        return problem(_NAME, f"does not work: {_one_line(error)}", _remedy())
    from sarguard.models.transformers_api import REQUIREMENT, TESTED, is_tested

    if not is_tested():
        return note(
            _NAME,
            f"{found}, which sarguard was not tested with",
            f"tested with {' and '.join(TESTED)}: pip install '{REQUIREMENT}'",
        )
    return ok(_NAME, found)


def try_steering() -> str:
    """Steer an answer of a tiny model, prove it, and say what was proven.

    Raises:
        SteeringError: It was not steered, or nothing changed.
    """
    import torch

    from sarguard.decoding import guarded_decode
    from sarguard.models.inputs import build_inputs
    from sarguard.models.transformers_api import installed_version
    from sarguard.steering.self_test import check_steering_bites
    from sarguard.steering.steerer import Steerer
    from sarguard.types import Turn

    # The caller's random state is left alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        loaded = _tiny_model()
        vectors = torch.randn(len(loaded.decoder), loaded.decoder.hidden_size)
    inputs = build_inputs(loaded, [[Turn(role="user", text="Hello.")]])
    with Steerer(loaded.decoder, vectors) as steerer:
        check_steering_bites(loaded, steerer, alpha=_ALPHA)
        (answer,) = guarded_decode(
            loaded, steerer, inputs, alpha=_ALPHA, max_new_tokens=_TOKENS
        )
    return (
        f"a tiny model's answer of {answer.output_tokens} token(s) was steered at "
        f"{answer.steered_positions} position(s) on each of {len(loaded.decoder)} "
        f"layers, with transformers {installed_version()}"
    )


def _tiny_model() -> LoadedModel:
    import torch
    from tokenizers import pre_tokenizers

    from sarguard.bench.synthetic import random_qwen2_audio
    from sarguard.reference.gguf_text import Vocabulary
    from sarguard.reference.tokenizer import build_tokenizer

    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Vocabulary(tokens=(*characters, *control), merges=(), control=control)
    return random_qwen2_audio(
        build_tokenizer(words, context=1024),
        torch.device("cpu"),
        text=_TEXT,
        audio=_AUDIO,
    )


def _remedy() -> str:
    try:
        from sarguard.models.transformers_api import REQUIREMENT
    # Where that cannot be imported, the check of the packages says why.
    except Exception:
        return "see the packages above"
    return f"pip install '{REQUIREMENT}'; requests are withheld until it works"


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
