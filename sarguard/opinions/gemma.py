"""Chat guards of the ShieldGemma kind: the probability of Yes, one guideline at a time.

The model is asked in scoring mode: it generates nothing, and the logits of `Yes` and
`No` after the prompt are compared. The prompt has a preamble, the words between
`<start_of_turn>` and `<end_of_turn>`, the guideline, and a question. Pattern and
guidelines are those of the model card, for prompts alone (ai.google.dev/gemma/docs/
shieldgemma/model_card; arXiv 2407.21772). A tokenizer whose chat template takes a
`guideline` makes the prompt itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sarguard.errors import ConfigurationError
from sarguard.guard.checks import CheckResult, InputCheck
from sarguard.opinions.chat_model import next_logits, render, tokenized
from sarguard.opinions.loading import (
    GuardModel,
    load_guard,
    without_control_tokens,
)
from sarguard.opinions.text_judges import TextMessage, flag_from, text_guard

if TYPE_CHECKING:
    from sarguard.models.untyped import PretrainedModel, Tokenizer

GUIDELINES: Mapping[str, str] = {
    "dangerous": '"No Dangerous Content": The prompt shall not contain or seek '
    "generation of content that harming oneself and/or others (e.g., accessing or "
    "building firearms and explosive devices, promotion of terrorism, instructions "
    "for suicide).",
    "harassment": '"No Harassment": The prompt shall not contain or seek generation '
    "of content that is malicious, intimidating, bullying, or abusive content "
    "targeting another individual (e.g., physical threats, denial of tragic events, "
    "disparaging victims of violence).",
    "hate": '"No Hate Speech": The prompt shall not contain or seek generation of '
    "content that targeting identity and/or protected attributes (e.g., racial "
    "slurs, promotion of discrimination, calls to violence against protected groups) "
    "or dehumanizing/belittling/vilifying on the bases of race, ethnicity, religion, "
    "disability, age, nationality, veteran status, sexual orientation, gender, gender "
    "identity, caste, or any other protected status. We do allow content that "
    "includes a reference to a protected individual or group in a positive manner.",
    "sexual": '"No Sexually Explicit Information": The prompt shall not contain or '
    "seek generation of content that contains references to sexual acts or other lewd "
    "content (e.g., sexually graphic descriptions, content aimed at causing arousal). "
    "Medical or scientific terms related to human anatomy or sex education are "
    "permitted.",
}
"""The guidelines of ShieldGemma's model card for what users say, by a short name."""

_PROMPT = """\
You are a policy expert trying to help determine whether a user prompt is in \
violation of the defined safety policies.

<start_of_turn>
Human Question: {words}
<end_of_turn>

Our safety principle is defined in the below:

* {guideline}

===

Does the human question violate the above principle? Your answer must start with \
'Yes' or 'No'. And then walk through step by step to be sure we answer correctly.
"""


def shield_gemma(
    model: str | os.PathLike[str] | PretrainedModel,
    *,
    guidelines: Mapping[str, str] = GUIDELINES,
    tokenizer: Tokenizer | None = None,
    threshold: float = 0.5,
    name: str = "shield-gemma",
    version: str | None = None,
    timeout_s: float = 30.0,
    device: str | None = None,
    dtype: Any = None,  # noqa: ANN401
    revision: str | None = None,
) -> InputCheck:
    """Return an input check by a model of the ShieldGemma kind.

    The score is the highest probability of `Yes` over the guidelines, against `No`;
    each guideline is one pass of the model over the newest turn.

    Args:
        model: A directory, a model id, or a causal language model in memory.
        guidelines: What must not be asked for, by a short name for records.
        tokenizer: Needed beside a model in memory.
        threshold: Score from which it flags.
        name: Name of the check.
        version: What stands in records; the default is the commit, or "1".
        timeout_s: Seconds that one look may take.
        device: Where to put the model.
        dtype: Of the weights that are read.
        revision: Branch, tag or commit on a hub.

    Raises:
        ConfigurationError: There is no tokenizer, no guideline, or no one token each
            for `Yes` and `No`.
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
    if not guidelines:
        raise ConfigurationError("no guidelines: give at least one")
    yes, no = (_token(guard.tokenizer, word) for word in ("Yes", "No"))

    def judge(messages: tuple[TextMessage, ...]) -> CheckResult:
        found = {
            short: _probability(guard, _prompt(guard, messages, guideline), yes, no)
            for short, guideline in guidelines.items()
        }
        # NaN is the largest here: it has to come out, to fail where it is checked.
        worst = max(
            found, key=lambda short: (found[short] != found[short], found[short])
        )
        return flag_from(found[worst], threshold, worst)

    return text_guard(name, judge, version=guard.version, timeout_s=timeout_s)


def _prompt(
    guard: GuardModel, messages: tuple[TextMessage, ...], guideline: str
) -> tuple[int, ...]:
    tokenizer = guard.tokenizer
    if "guideline" in str(tokenizer.chat_template or ""):
        return render(guard, messages, guideline=guideline)
    words = without_control_tokens(messages[-1].text, tokenizer).strip()
    prompt = _PROMPT.format(words=words, guideline=guideline)
    return tokenized(tokenizer, f"{tokenizer.bos_token or ''}{prompt}")


def _probability(
    guard: GuardModel, prompt: tuple[int, ...], yes: int, no: int
) -> float:
    import torch

    pair = next_logits(guard, prompt)[[yes, no]]
    return float(torch.softmax(pair, 0)[0])


def _token(tokenizer: Tokenizer, word: str) -> int:
    found = tokenizer.get_vocab().get(word)
    if found is None:
        raise ConfigurationError(
            f"the guard's tokenizer has no token {word}: it is not that of a "
            "ShieldGemma"
        )
    return int(found)
