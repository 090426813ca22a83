"""Names of transformers that differ between its versions, or that it keeps private.

Steering counts positions from the cache that a forward pass is given. A release that
calls it otherwise would have it read as empty, so what is not found under a known name
is an error here and never an empty cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationConfig, cache_utils
from transformers.modeling_outputs import BaseModelOutputWithPast

from sarguard.errors import SteeringNotAppliedError
from sarguard.logs import get_logger
from sarguard.models.untyped import Config, KeyValueCache, PretrainedModel

TESTED = ("5.23", "5.24")
"""Versions that the test suite was run with."""

REQUIREMENT = "transformers>=5.23,<5.25"
"""What pip is asked for, to have a tested version."""

CACHE_NAMES = ("cache", "past_key_values")
"""What the cache is called: `cache` from 5.24 on, `past_key_values` up to 5.23."""

_PLAIN_LAYERS = ("DynamicLayer", "DummyLayer")

_log = get_logger(__name__)


def installed_version() -> str:
    """Return the version of transformers."""
    return str(transformers.__version__)


def is_tested() -> bool:
    """Return whether sarguard was tested with the transformers that is installed."""
    return ".".join(installed_version().split(".")[:2]) in TESTED


def advice() -> str:
    """Say which transformers is installed, which were tested, and what to do."""
    tested = " and ".join(TESTED)
    found = (
        f"transformers {installed_version()} is installed, sarguard was tested with "
        f"{tested}"
    )
    if is_tested():
        return (
            f"{found}: is it installed whole, and does the model bring code of its "
            f"own that was written for another version? pip install '{REQUIREMENT}'"
        )
    return f"{found}: install one of them (pip install '{REQUIREMENT}')"


def untested_advice() -> str:
    """Return the advice as the end of a message; nothing for a tested version."""
    return "" if is_tested() else f"; {advice()}"


@functools.cache
def warn_if_untested() -> None:
    """Log once a process that the installed version was not tested."""
    if not is_tested():
        _log.warning(
            "untested transformers",
            installed=installed_version(),
            tested=", ".join(TESTED),
            fix=f"pip install '{REQUIREMENT}'",
        )


def cache_name() -> str:
    """Return what the installed version calls the cache, in calls and in outputs.

    Raises:
        SteeringNotAppliedError: None of the known names.
    """
    known = {field.name for field in fields(BaseModelOutputWithPast)}
    for name in CACHE_NAMES:
        if name in known:
            return name
    raise SteeringNotAppliedError(
        f"a model's output has none of the fields {_names()}, so where an answer goes "
        f"on is unknown; {advice()}"
    )


def passing_cache(cache: KeyValueCache) -> dict[str, Any]:
    """Return the keyword argument that hands a cache to a forward pass."""
    return {cache_name(): cache}


def passed_cache(
    args: Sequence[object], kwargs: Mapping[str, Any]
) -> KeyValueCache | None:
    """Return the cache that a call has among its arguments, None where it has none.

    Raises:
        SteeringNotAppliedError: There is a cache under no known name, or there are
            two.
    """
    found = [kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None]
    if len(found) > 1 and found[0] is not found[1]:
        raise SteeringNotAppliedError(
            f"a forward pass was given two caches, as {_names()}: pass one of them"
        )
    if found:
        return found[0]
    strange = [f"{name}=" for name, value in kwargs.items() if isinstance(value, Cache)]
    strange += [
        f"argument {place}"
        for place, value in enumerate(args, start=1)
        if isinstance(value, Cache)
    ]
    if strange:
        raise SteeringNotAppliedError(
            f"a forward pass was given a cache as {strange[0]}, and only "
            f"{_names()} are known; {advice()}"
        )
    return None


def returned_cache(output: object) -> KeyValueCache:
    """Return the cache that a forward pass with `use_cache=True` gave back.

    Raises:
        SteeringNotAppliedError: There is none under a known name.
    """
    # First the installed version's own: 5.24 logs a warning for the old one.
    for name in (cache_name(), *CACHE_NAMES):
        found = getattr(output, name, None)
        if found is not None:
            return found
    raise SteeringNotAppliedError(
        f"{type(output).__name__} came without a cache under {_names()}, so where the "
        f"answer goes on is unknown; {advice()}"
    )


def kept_cache(kwargs: Mapping[str, Any]) -> KeyValueCache:
    """Return the cache in what generate() keeps between its steps.

    Raises:
        SteeringNotAppliedError: There is none under a known name.
    """
    found = passed_cache((), kwargs)
    if found is None:
        raise SteeringNotAppliedError(
            f"generate() prepared no cache under {_names()}, so where the answer goes "
            f"on is unknown; {advice()}"
        )
    return found


def keep_cache(kwargs: dict[str, Any], cache: KeyValueCache) -> None:
    """Put a cache in the place of the one that generate() keeps."""
    name = next((name for name in CACHE_NAMES if name in kwargs), cache_name())
    kwargs[name] = cache


def is_croppable(cache: object) -> bool:
    """Return whether tokens can be taken out of a cache's end without a trace."""
    return isinstance(cache, DynamicCache) and all(map(_is_plain, cache.layers))


def cache_layers(cache: KeyValueCache) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values of each layer of a croppable cache.

    Shapes (rows, heads, positions, width).
    """
    return [(layer.keys, layer.values) for layer in cache.layers]


def cache_of(layers: Sequence[tuple[Tensor, Tensor]]) -> KeyValueCache:
    """Return a plain cache of keys and values, as `cache_layers` gives them."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def greedy_settings(
    *, max_new_tokens: int, stops: Sequence[int], pad: int
) -> GenerationConfig:
    """Return settings under which generate() only prepares what a step needs."""
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        # Said and not left out: what is None is taken from the model's own config, and
        # choosing tokens is ours.
        do_sample=False,
        use_cache=True,
        num_beams=1,
        num_return_sequences=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_length=0,
        return_dict_in_generate=False,
        # generate() compiles steps by itself with a static cache on a GPU.
        disable_compile=True,
        eos_token_id=list(stops) or None,
        pad_token_id=pad,
    )


def run_loop(
    model: PretrainedModel,
    inputs: Mapping[str, Any],
    config: GenerationConfig,
    loop: Callable[..., Tensor],
) -> None:
    """Have generate() prepare inputs and a cache, and run a loop of ours on them.

    Args:
        model: The model.
        inputs: Keyword arguments of generate().
        config: What `greedy_settings` gave.
        loop: Called with the model, `input_ids`, `logits_processor`,
            `stopping_criteria`, `generation_config` and what else generate() keeps.
    """
    model.generate(**inputs, generation_config=config, custom_generate=loop)


def prefill(
    model: PretrainedModel,
    ids: Tensor,
    config: GenerationConfig,
    kwargs: dict[str, Any],
) -> Any:  # noqa: ANN401
    """Run the prompt as generate() does; return the model's output."""
    return _private(model, "_prefill")(ids, config, kwargs)


def decoding(model: PretrainedModel) -> AbstractContextManager[None]:
    """Return the context in which generate() runs the steps after the prompt."""
    context: AbstractContextManager[None] = _private(
        model, "_optimize_model_for_decode"
    )()
    return context


def after_pass(
    model: PretrainedModel,
    output: Any,  # noqa: ANN401
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """Return what generate() keeps for the next step, the cache among it.

    Raises:
        SteeringNotAppliedError: The cache is under no known name.
    """
    kept: dict[str, Any] = _private(model, "_update_model_kwargs_for_generation")(
        output, kwargs
    )
    # For its error only: with a cache under a name that is not known, the next step
    # would begin anew.
    kept_cache(kept)
    return kept


def run_last_token(
    model: PretrainedModel, ids: Tensor, kwargs: Mapping[str, Any]
) -> Any:  # noqa: ANN401
    """Run the last token of each row on what the cache holds of those before it."""
    inputs = _private(model, "prepare_inputs_for_generation")(
        ids, next_sequence_length=1, **kwargs
    )
    return model(**inputs, return_dict=True)


def covers_more(kwargs: Mapping[str, Any], tokens: int) -> bool:
    """Return whether a forward pass' attention mask covers more than its own tokens."""
    mask = kwargs.get("attention_mask")
    return isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] > tokens


def commit_of(config: Config) -> str | None:
    """Return the commit on a hub that a config was read from."""
    found: str | None = getattr(config, "_commit_hash", None)
    return found


def has_adapter(model: PretrainedModel) -> bool:
    """Return whether transformers put an adapter into a model."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def without_initialisation() -> AbstractContextManager[None]:
    """Return the context in which a model is made and its weights are left empty."""
    from transformers import initialization

    context: AbstractContextManager[None] = initialization.no_init_weights()
    return context


def made_of(model_class: Any, config: Config, *, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Return a model with random weights of a type, made of its config."""
    return model_class._from_config(config, dtype=dtype)


def _private(model: PretrainedModel, name: str) -> Any:  # noqa: ANN401
    """Return a method of a model's generation, the same in 5.23 and 5.24."""
    found = getattr(model, name, None)
    if found is None:
        raise SteeringNotAppliedError(
            f"{type(model).__name__} has no {name}(), which decoding steered answers "
            f"needs; {advice()}"
        )
    return found


def _is_plain(layer: Any) -> bool:  # noqa: ANN401
    # Layers that also keep a state of their own are made by subclassing these. Where
    # a version lacks one, nothing is taken out of its caches and prompts are run again.
    # A window that is not full has dropped nothing that cropping would need back.
    if type(layer) is getattr(cache_utils, "DynamicSlidingWindowLayer", None):
        return bool(layer.get_seq_length() < layer.sliding_window)
    plain = (getattr(cache_utils, name, None) for name in _PLAIN_LAYERS)
    return any(type(layer) is known for known in plain)


def _names() -> str:
    return " or ".join(CACHE_NAMES)
