"""Chat guards of the Llama Guard kind.

The prompt is the one that the model's own tokenizer makes: its chat template carries
the task, the categories and the conversation. The model answers `safe`, or `unsafe`
and the violated categories on the next line, separated by commas; the score is the
probability of `unsafe` where it says one of the two. Source: the model cards of Llama
Guard 1 to 3 (llama.com, "Model cards and prompt formats").
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from sarguard.errors import CheckFailedError, ConfigurationError
from sarguard.guard.checks import CheckResult, InputCheck
from sarguard.opinions.chat_model import Verdict, ask, render
from sarguard.opinions.loading import load_guard
from sarguard.opinions.text_judges import TextMessage, text_guard

if TYPE_CHECKING:
    from sarguard.models.untyped import PretrainedModel, Tokenizer

_MAX_TOKENS = 24
# S1 to S14 of Llama Guard 2 and 3, O1 to O6 or 01 to 06 of the first.
_CATEGORY = re.compile(r"^[A-Z]?\d{1,2}$")


def llama_guard(
    model: str | os.PathLike[str] | PretrainedModel,
    *,
    tokenizer: Tokenizer | None = None,
    threshold: float | None = None,
    name: str = "llama-guard",
    version: str | None = None,
    timeout_s: float = 30.0,
    turns: int = 1,
    device: str | None = None,
    dtype: Any = None,  # noqa: ANN401
    revision: str | None = None,
    template_options: dict[str, Any] | None = None,
) -> InputCheck:
    """Return an input check by a model of the Llama Guard kind.

    Args:
        model: A directory, a model id, or a causal language model in memory.
        tokenizer: Needed beside a model in memory.
        threshold: Score from which it flags; None flags what the model calls unsafe.
        name: Name of the check.
        version: What stands in records; the default is the commit, or "1".
        timeout_s: Seconds that one look may take.
        turns: Newest turns that the model is given as the conversation; make it odd,
            as the templates want users and assistants to alternate from a user on.
        device: Where to put the model.
        dtype: Of the weights that are read.
        revision: Branch, tag or commit on a hub.
        template_options: What else the chat template takes, such as the categories.

    Raises:
        ConfigurationError: There is no tokenizer, no chat template, or the tokenizer
            does not tell `safe` from `unsafe` by its first token.
    """
    guard = load_guard(
        model,
        tokenizer,
        "AutoModelForCausalLM",
        device=device,
        dtype=dtype,
        revision=revision,
        version=version,
    )
    words = _first_tokens(guard.tokenizer)
    options = template_options or {}
    # Now, and not at the first request: a wrong tokenizer should not open.
    render(guard, [TextMessage(role="user", text="hello")], **options)

    def judge(messages: tuple[TextMessage, ...]) -> CheckResult:
        found = ask(guard, render(guard, messages, **options), _MAX_TOKENS)
        unsafe, categories = parse_llama_guard(found.text)
        score = _score(found, words)
        flagged = unsafe if threshold is None else score >= threshold
        return CheckResult(
            blocked=flagged,
            score=score,
            threshold=0.5 if threshold is None else threshold,
            label=",".join(categories) or None,
        )

    return text_guard(
        name, judge, version=guard.version, timeout_s=timeout_s, turns=turns
    )


def parse_llama_guard(text: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether a Llama Guard said `unsafe`, and the categories that it named.

    Raises:
        CheckFailedError: It said neither `safe` nor `unsafe`.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    verdict = lines[0].lower() if lines else ""
    if verdict == "safe":
        return False, ()
    if verdict != "unsafe":
        raise CheckFailedError("the guard's model said neither safe nor unsafe")
    named = [part.strip() for part in lines[1].split(",")] if len(lines) > 1 else []
    return True, tuple(part for part in named if _CATEGORY.match(part))


def _first_tokens(tokenizer: Tokenizer) -> tuple[frozenset[int], frozenset[int]]:
    """Return the tokens that `unsafe`, and that `safe`, may begin with."""
    found = []
    for word in ("unsafe", "safe"):
        forms = (word, f" {word}", f"\n\n{word}")
        ids = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
        # The token that brings the word's first letter: what stands before is space.
        begins = [
            next((i for i in row if tokenizer.decode([i]).strip()), None) for row in ids
        ]
        found.append(frozenset(i for i in begins if i is not None))
    unsafe, safe = found
    if not unsafe or not safe or unsafe & safe:
        raise ConfigurationError(
            "the guard's tokenizer begins safe and unsafe with the same token: it is "
            "not that of a Llama Guard"
        )
    return unsafe, safe


def _score(found: Verdict, words: tuple[frozenset[int], frozenset[int]]) -> float:
    """Return the probability of unsafe against safe, where one of them is said."""
    unsafe, safe = words
    for step, token in enumerate(found.tokens):
        if token in unsafe or token in safe:
            return found.odds(step, sorted(unsafe), sorted(safe))
    raise CheckFailedError("the guard's model said neither safe nor unsafe")
