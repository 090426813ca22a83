"""Asking a chat model for a verdict: its own template, its words, and their odds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sarguard.errors import CheckFailedError, ConfigurationError
from sarguard.opinions.loading import GuardModel, without_control_tokens
from sarguard.opinions.text_judges import TextMessage

if TYPE_CHECKING:
    from torch import Tensor

    from sarguard.models.untyped import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What a guard's model said, token by token."""

    text: str
    tokens: tuple[int, ...]
    logits: tuple[Tensor, ...]
    """Before each token, shape (vocabulary,), unprocessed."""

    def odds(self, step: int, yes: Sequence[int], no: Sequence[int]) -> float:
        """Return the probability of some tokens against that of others at a step."""
        import torch

        likely = torch.softmax(self.logits[step].float(), 0)
        for_yes, for_no = likely[list(yes)].sum(), likely[list(no)].sum()
        return float(for_yes / (for_yes + for_no))


def render(
    guard: GuardModel, messages: Sequence[TextMessage], **options: object
) -> tuple[int, ...]:
    """Return the prompt that the tokenizer's own chat template makes of messages.

    Templates want the content of a message as a text or as a list of parts: the form
    in which every message reaches the prompt is taken.

    Raises:
        ConfigurationError: There is no template, or words do not reach the prompt.
    """
    tokenizer = guard.tokenizer
    if not tokenizer.chat_template:
        raise ConfigurationError(
            "the guard's tokenizer has no chat template, which carries its prompt: "
            "take the tokenizer that belongs to the model"
        )
    plain = [
        (message.role, without_control_tokens(message.text, tokenizer).strip())
        for message in messages
    ]
    for as_parts in (False, True):
        prompt = _rendered(tokenizer, plain, as_parts, options)
        # A guard that does not read the words would pass them.
        if prompt is not None and all(text in prompt for _, text in plain):
            return tokenized(tokenizer, prompt)
    raise ConfigurationError(
        "the guard's chat template does not take over what was said: it is not the "
        "template of such a guard"
    )


def tokenized(tokenizer: Tokenizer, prompt: str) -> tuple[int, ...]:
    """Return the token ids of a prompt that holds its own control tokens."""
    return tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def ask(guard: GuardModel, prompt: Sequence[int], max_new_tokens: int) -> Verdict:
    """Return what a guard's model says to a prompt, greedily.

    Raises:
        CheckFailedError: The prompt is longer than the model reads.
    """
    import torch

    room = guard.max_tokens
    if room is not None and len(prompt) + max_new_tokens > room:
        raise CheckFailedError(
            f"the guard would read {len(prompt)} tokens and reads {room} with its "
            "answer: let it read fewer turns"
        )
    ids = torch.tensor([list(prompt)], device=guard.device)
    ends = guard.model.generation_config.eos_token_id
    with torch.inference_mode():
        out = guard.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=_pad(guard, ends),
            output_logits=True,
            return_dict_in_generate=True,
        )
    said = tuple(out.sequences[0, len(prompt) :].tolist())
    text = guard.tokenizer.decode(said, skip_special_tokens=True)
    return Verdict(text=text, tokens=said, logits=tuple(step[0] for step in out.logits))


def next_logits(guard: GuardModel, prompt: Sequence[int]) -> Tensor:
    """Return the logits of the token after a prompt, shape (vocabulary,), float32.

    Raises:
        CheckFailedError: The prompt is longer than the model reads.
    """
    import torch

    if guard.max_tokens is not None and len(prompt) > guard.max_tokens:
        raise CheckFailedError(
            f"the guard would read {len(prompt)} tokens and reads {guard.max_tokens}"
        )
    ids = torch.tensor([list(prompt)], device=guard.device)
    with torch.inference_mode():
        found: Tensor = guard.model(input_ids=ids).logits[0, -1].float()
    return found


def tokens_of(tokenizer: Tokenizer, words: Sequence[str]) -> dict[str, list[int]]:
    """Return, for each word, every token that says it, spaces and case aside."""
    found: dict[str, list[int]] = {word: [] for word in words}
    for index in range(len(tokenizer)):
        said = tokenizer.decode([index]).strip().lower()
        if said in found:
            found[said].append(index)
    return found


def _rendered(
    tokenizer: Tokenizer,
    plain: Sequence[tuple[str, str]],
    as_parts: bool,
    options: Mapping[str, object],
) -> str | None:
    """Return a template's text, or None where it does not take this form."""
    from jinja2.exceptions import TemplateError

    messages: list[dict[str, Any]] = [
        {
            "role": role,
            "content": [{"type": "text", "text": text}] if as_parts else text,
        }
        for role, text in plain
    ]
    try:
        prompt: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options
        )
    except (TemplateError, TypeError):
        return None
    return prompt


def _pad(guard: GuardModel, ends: object) -> int | None:
    pad = guard.tokenizer.pad_token_id
    if pad is not None:
        return int(pad)
    first = ends[0] if isinstance(ends, (list, tuple)) else ends
    return first if isinstance(first, int) else None
