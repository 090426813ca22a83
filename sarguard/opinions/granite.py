"""Chat guards of the Granite Guardian kind.

The chat template of the tokenizer takes the risk as `guardian_config`: `risk_name` up
to version 3.2, `criteria_id` from 3.3 on, which also takes `think`. The model answers
`Yes` or `No` (3.0, 3.1); `Yes` and `<confidence> High </confidence>` (3.2); or
`<score> yes </score>`, after `<think>...</think>` where it was told to think (3.3).
The score is the probability of yes against no, over all tokens that say so. Source:
the model cards of ibm-granite/granite-guardian-3.0 to 3.3.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from sarguard.errors import CheckFailedError, ConfigurationError
from sarguard.guard.checks import CheckResult, InputCheck
from sarguard.opinions.chat_model import Verdict, ask, render, tokens_of
from sarguard.opinions.loading import load_guard
from sarguard.opinions.text_judges import TextMessage, text_guard

if TYPE_CHECKING:
    from sarguard.models.untyped import PretrainedModel, Tokenizer

_MAX_TOKENS = 64
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_SCORE = re.compile(r"<score>\s*(yes|no)\s*</score>", re.IGNORECASE)
_PLAIN = re.compile(
    r"^(yes|no)(?:\s*<confidence>\s*(?:high|low)\s*</confidence>)?$", re.IGNORECASE
)


def granite_guardian(
    model: str | os.PathLike[str] | PretrainedModel,
    *,
    risk: str = "harm",
    tokenizer: Tokenizer | None = None,
    threshold: float | None = None,
    name: str = "granite-guardian",
    version: str | None = None,
    timeout_s: float = 30.0,
    turns: int = 1,
    device: str | None = None,
    dtype: Any = None,  # noqa: ANN401
    revision: str | None = None,
    template_options: dict[str, Any] | None = None,
) -> InputCheck:
    """Return an input check by a model of the Granite Guardian kind.

    Args:
        model: A directory, a model id, or a causal language model in memory.
        risk: The risk or criterion that it looks for, by the name its card gives.
        tokenizer: Needed beside a model in memory.
        threshold: Score from which it flags; None flags where the model says yes.
        name: Name of the check.
        version: What stands in records; the default is the commit, or "1".
        timeout_s: Seconds that one look may take.
        turns: Newest turns that the model is given. One is its prompt risk; the last
            of several has to be the user's.
        device: Where to put the model.
        dtype: Of the weights that are read.
        revision: Branch, tag or commit on a hub.
        template_options: In place of what is passed to the chat template by default.

    Raises:
        ConfigurationError: There is no tokenizer, no chat template, or no token that
            says yes or no.
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
    said = tokens_of(guard.tokenizer, ("yes", "no"))
    if not said["yes"] or not said["no"]:
        raise ConfigurationError(
            "the guard's tokenizer has no token that says yes or none that says no: "
            "it is not that of a Granite Guardian"
        )
    options = template_options or _options(guard.tokenizer, risk)
    # Now, and not at the first request: a wrong tokenizer should not open.
    render(guard, [TextMessage(role="user", text="hello")], **options)

    def judge(messages: tuple[TextMessage, ...]) -> CheckResult:
        found = ask(guard, render(guard, messages, **options), _MAX_TOKENS)
        harmful = parse_granite_guardian(found.text)
        score = _score(found, said)
        flagged = harmful if threshold is None else score >= threshold
        return CheckResult(
            blocked=flagged,
            score=score,
            threshold=0.5 if threshold is None else threshold,
            label=risk if flagged else None,
        )

    return text_guard(
        name, judge, version=guard.version, timeout_s=timeout_s, turns=turns
    )


def parse_granite_guardian(text: str) -> bool:
    """Return whether a Granite Guardian said yes: that the risk is there.

    Raises:
        CheckFailedError: It said neither yes nor no in a form that its cards document.
    """
    spoken = _THOUGHT.sub("", text).strip()
    scored = _SCORE.search(spoken)
    found = scored or _PLAIN.match(spoken)
    if found is None:
        raise CheckFailedError("the guard's model said neither yes nor no")
    return found[1].lower() == "yes"


def _options(tokenizer: Tokenizer, risk: str) -> dict[str, Any]:
    if "criteria_id" in str(tokenizer.chat_template):
        return {"guardian_config": {"criteria_id": risk}, "think": False}
    return {"guardian_config": {"risk_name": risk}}


def _score(found: Verdict, said: dict[str, list[int]]) -> float:
    """Return the probability of yes against no, where the verdict stands."""
    verdicts = {*said["yes"], *said["no"]}
    # In the tagged form the last one: what it thought may hold a yes as well.
    tagged = "<score>" in found.text
    steps = [step for step, token in enumerate(found.tokens) if token in verdicts]
    if not steps:
        raise CheckFailedError("the guard's model said neither yes nor no")
    return found.odds(steps[-1] if tagged else steps[0], said["yes"], said["no"])
