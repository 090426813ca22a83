"""Decoding an answer with every one of its tokens steered."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from sarguard.errors import ConfigurationError
from sarguard.models.loading import LoadedModel
from sarguard.steering.steerer import Steerer

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Say how tokens are chosen; the default is greedy."""

    temperature: float = 0.0
    """0 takes the likeliest token; above 0 samples."""
    top_p: float = 1.0
    seed: int | None = None
    """Makes sampling repeatable; the caller's random state is left alone."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigurationError(
                f"temperature is {self.temperature}: it has to be finite and 0 or more"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(
                f"top_p is {self.top_p}: it has to be above 0 and at most 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Hold what was decoded for one row."""

    token_ids: tuple[int, ...]
    """Answer tokens, without the token that ended it."""
    output_tokens: int
    """Tokens chosen for this row, the one that ended it among them."""
    finish_reason: Literal["stop", "length"]
    steered_positions: int
    """Positions steered on every layer while this batch was decoded."""
    prefill_s: float
    total_s: float


def guarded_decode(
    loaded: LoadedModel,
    steerer: Steerer,
    inputs: Mapping[str, Tensor],
    *,
    alpha: float | Sequence[float] | Tensor,
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> list[Decoded]:
    """Decode an answer for every row, and prove that it was steered.

    Args:
        loaded: The model.
        steerer: Attached to that model.
        inputs: What `build_inputs` gave.
        alpha: Strength, one for all rows or one a row; above 0 and finite.
        max_new_tokens: Most tokens a row.
        sampling: How tokens are chosen; greedy if not given.

    Raises:
        ConfigurationError: A setting is out of range, or the model's generation
            config asks for speculative or cacheless decoding.
        SteeringError: The answer cannot be proven to be steered; it is not returned.
    """
    if max_new_tokens < 1:
        raise ConfigurationError(f"max_new_tokens is {max_new_tokens}: need 1 or more")
    chosen = sampling or Sampling()
    _refuse_unsafe(loaded.model.generation_config)
    rows, prompt_length = inputs["input_ids"].shape
    clock = _Clock(loaded.device)
    guard = steerer.guard(prompt_length=prompt_length, alpha=alpha, rows=rows)
    with guard as receipt, _random_state(chosen, loaded.device), torch.no_grad():
        clock.start()
        output = loaded.model.generate(
            **inputs,
            generation_config=_configure(loaded, chosen, max_new_tokens),
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        tokens = output[:, prompt_length:].tolist()
        total = clock.elapsed()
    steps = output.shape[1] - prompt_length
    steerer.verify(receipt, output_tokens=steps)
    stops = stop_tokens(loaded)
    return [
        _row(answer, stops, steered=steps, prefill=clock.first_token_s, total=total)
        for answer in tokens
    ]


def stop_tokens(loaded: LoadedModel) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer."""
    found = loaded.model.generation_config.eos_token_id
    if found is None:
        found = loaded.tokenizer.eos_token_id
    if found is None:
        return ()
    return (found,) if isinstance(found, int) else tuple(found)


def _configure(
    loaded: LoadedModel, sampling: Sampling, max_new_tokens: int
) -> GenerationConfig:
    stops = stop_tokens(loaded)
    pad = loaded.tokenizer.pad_token_id
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": sampling.temperature > 0,
        "use_cache": True,
        "num_beams": 1,
        "num_return_sequences": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_length": 0,
        "return_dict_in_generate": False,
        "disable_compile": True,
        "eos_token_id": list(stops) or None,
        "pad_token_id": pad if pad is not None else (stops[0] if stops else 0),
    }
    if sampling.temperature > 0:
        settings |= {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]


def _refuse_unsafe(config: GenerationConfig) -> None:
    asked = {name: getattr(config, name, None) for name in _UNSAFE_SETTINGS}
    found = [f"{name}={value!r}" for name, value in asked.items() if value is not None]
    if config.use_cache is False:
        found.append("use_cache=False")
    if found:
        raise ConfigurationError(
            f"the model's generation_config sets {', '.join(found)}: speculative "
            "and cacheless decoding cannot be guarded; set them to None"
        )


def _row(
    answer: list[int],
    stops: tuple[int, ...],
    *,
    steered: int,
    prefill: float,
    total: float,
) -> Decoded:
    end = next((i for i, token in enumerate(answer) if token in stops), None)
    return Decoded(
        token_ids=tuple(answer[:end]),
        output_tokens=len(answer) if end is None else end + 1,
        finish_reason="length" if end is None else "stop",
        steered_positions=steered,
        prefill_s=prefill,
        total_s=total,
    )


@contextmanager
def _random_state(sampling: Sampling, device: torch.device) -> Iterator[None]:
    if sampling.seed is None:
        yield
        return
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=_fork_type(device)):
        torch.manual_seed(sampling.seed)
        yield


def _fork_type(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type


class _Clock(StoppingCriteria):
    """Note when the first token is there; never stop anything."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = 0.0
        self.first_token_s = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    def __call__(
        self, input_ids: Tensor, scores: Tensor, **kwargs: object
    ) -> torch.BoolTensor:
        if self.first_token_s == 0.0:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.first_token_s = self.elapsed()
        going_on = torch.zeros(input_ids.shape[0], device=input_ids.device).bool()
        return cast("torch.BoolTensor", going_on)
