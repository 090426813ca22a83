"""An input check that hands what was said, aloud and in writing, to a judge of text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sarguard.errors import ConfigurationError
from sarguard.guard.checks import ALLOW, CheckResult, InputCheck, InputView


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMessage:
    """One turn of a conversation as a judge of text reads it."""

    role: Literal["user", "assistant"]
    text: str
    """Transcripts of its clips, then what is written; never empty."""


TextJudge: TypeAlias = Callable[
    [tuple[TextMessage, ...]], CheckResult | Awaitable[CheckResult]
]
"""Judges the newest of some messages, oldest first; plain or async."""


def text_guard(
    name: str,
    judge: TextJudge,
    *,
    version: str,
    timeout_s: float = 10.0,
    turns: int = 1,
    remote: str | None = None,
) -> InputCheck:
    """Return an input check that has a judge read the newest turns.

    A request with a clip needs a client with a `transcriber`: without one the check
    has not passed. A turn without a word is not judged.

    Args:
        name: Name of the check.
        judge: Says what it makes of the messages; it is called on a thread of its own.
        version: Changes with what the judge does; it stands in records.
        timeout_s: Seconds that one look may take, transcripts aside.
        turns: Newest turns, of the user and of the assistant, that the judge reads.
        remote: The service outside of this process that the judge hands the words to,
            as the policy names it.

    Raises:
        ConfigurationError: `turns` is below 1, or the check's name makes no sense.
    """
    if turns < 1:
        raise ConfigurationError(f"turns is {turns}: a judge reads at least one")

    def run(view: InputView) -> CheckResult | Awaitable[CheckResult]:
        if not view.words.strip():
            return ALLOW
        spoken = [turn for turn in view.turns if turn.role != "system"][-turns:]
        said = [(turn.role, view.words_of(turn).strip()) for turn in spoken]
        messages = tuple(
            TextMessage(role="assistant" if role == "assistant" else "user", text=text)
            for role, text in said
            if text
        )
        return judge(messages)

    return InputCheck(
        name=name, version=version, timeout_s=timeout_s, run=run, remote=remote
    )


def flag_from(score: float, threshold: float, label: str | None = None) -> CheckResult:
    """Return a result that flags from a score on, both in the record."""
    flagged = score >= threshold
    return CheckResult(
        score=score,
        threshold=threshold,
        blocked=flagged,
        label=label if flagged else None,
    )
