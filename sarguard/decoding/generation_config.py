"""Settings for the library's generate, and those that cannot be guarded."""

from __future__ import annotations

from transformers import GenerationConfig

from sarguard.errors import ConfigurationError
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import greedy_settings

# Each of these makes the library decode in a way in which positions are guessed,
# repeated or dropped, so what is steered would no longer be what is answered.
_UNSAFE_SETTINGS = (
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "dola_layers",
    "penalty_alpha",
    "prefill_chunk_size",
    "guidance_scale",
    "watermarking_config",
)


def stop_tokens(loaded: LoadedModel) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer."""
    # First here: it may name several tokens, a tokenizer has one.
    found = loaded.model.generation_config.eos_token_id
    if found is None:
        found = loaded.tokenizer.eos_token_id
    if found is None:
        return ()
    return (found,) if isinstance(found, int) else tuple(found)


def padding_token(loaded: LoadedModel) -> int:
    """Return the id of the token that fills up rows which have ended."""
    pad: int | None = loaded.tokenizer.pad_token_id
    # Any id will do: what fills up a row that has ended is never read.
    return pad if pad is not None else (*stop_tokens(loaded), 0)[0]


def configure(loaded: LoadedModel, max_new_tokens: int) -> GenerationConfig:
    """Return settings under which the library only prepares what a step needs.

    Raises:
        ConfigurationError: The model's own settings ask for speculative or cacheless
            decoding, which cannot be guarded.
    """
    # generate() takes from the model's own config whatever a call leaves None.
    _refuse_unsafe(loaded.model.generation_config)
    return greedy_settings(
        max_new_tokens=max_new_tokens,
        stops=stop_tokens(loaded),
        pad=padding_token(loaded),
    )


def _refuse_unsafe(config: GenerationConfig) -> None:
    values = {name: getattr(config, name, None) for name in _UNSAFE_SETTINGS}
    found = [f"{name}={value!r}" for name, value in values.items() if value is not None]
    if config.use_cache is False:
        found.append("use_cache=False")
    if found:
        raise ConfigurationError(
            f"the model's generation_config sets {', '.join(found)}: speculative "
            "and cacheless decoding cannot be guarded; set them to None"
        )
