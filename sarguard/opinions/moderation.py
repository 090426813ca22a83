"""A callable that answers as OpenAI's moderation endpoint does, as a text guard.

The shape is that of the API reference of `POST /v1/moderations`: `results`, each with
`flagged`, `categories` and `category_scores`, as mappings or as objects. Nothing here
asks a network: the callable does, or does not.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from sarguard.errors import CheckFailedError
from sarguard.guard.checks import CheckResult, InputCheck
from sarguard.opinions.text_judges import TextMessage, text_guard

Moderation: TypeAlias = Callable[[str], Any]
"""Takes a text and returns a response, or an awaitable of one."""


def moderation_guard(
    call: Moderation,
    *,
    remote: str | None,
    name: str = "moderation",
    version: str = "1",
    timeout_s: float = 10.0,
    turns: int = 1,
) -> InputCheck:
    """Return an input check by a callable in the shape of OpenAI's moderation.

    With the `openai` package, whose client is a service that the policy has to name:

        moderation_guard(
            lambda text: client.moderations.create(
                model="omni-moderation-latest", input=text
            ),
            remote="openai",
            version="omni-moderation-latest",
        )

    The score is the highest of the categories', where there are scores. It flags where
    the response does, or from a policy's `threshold` on.

    Args:
        call: Takes a text and returns a response; plain or async.
        remote: The service that it hands the words to, as the policy names it; None
            where nothing leaves this process.
        name: Name of the check.
        version: What stands in records, such as the moderation model's name.
        timeout_s: Seconds that one look may take.
        turns: Newest turns that are read, one text.
    """

    def judge(
        messages: tuple[TextMessage, ...],
    ) -> CheckResult | Awaitable[CheckResult]:
        response = call("\n".join(message.text for message in messages))
        if inspect.isawaitable(response):
            return _later(response)
        return read_moderation(response)

    return text_guard(
        name, judge, version=version, timeout_s=timeout_s, turns=turns, remote=remote
    )


async def _later(response: Awaitable[Any]) -> CheckResult:
    return read_moderation(await response)


def read_moderation(response: object) -> CheckResult:
    """Return what a response says.

    Raises:
        CheckFailedError: It has no results, a result does not say whether it flags, or
            a score is no number.
    """
    results = _field(response, "results")
    if not isinstance(results, (list, tuple)) or not results:
        raise CheckFailedError(
            f"the moderation's response, a {type(response).__name__}, holds no "
            "results: the callable has to return the endpoint's response"
        )
    flags = [_field(result, "flagged") for result in results]
    if not all(isinstance(flag, bool) for flag in flags):
        raise CheckFailedError(
            "a moderation result does not say whether it is flagged: the callable has "
            "to return the endpoint's response"
        )
    scores: dict[str, float] = {}
    for result in results:
        for category, score in _pairs(_field(result, "category_scores")).items():
            if not isinstance(score, (int, float)) or not math.isfinite(score):
                raise CheckFailedError(
                    f"the moderation's score of {category} is {score!r}, no number"
                )
            scores[category] = max(score, scores.get(category, score))
    named = [
        category
        for result in results
        for category, found in _pairs(_field(result, "categories")).items()
        if found is True
    ]
    named.sort(key=lambda category: -scores.get(category, 0.0))
    flagged = any(flags)
    return CheckResult(
        blocked=flagged,
        score=max(scores.values(), default=None),
        label=(named[0] if named else None) if flagged else None,
    )


def _field(value: object, name: str) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return value.get(name)
    return getattr(value, name, None)


def _pairs(value: object) -> Mapping[str, Any]:
    """Return a mapping, whichever way an object holds its fields."""
    if isinstance(value, Mapping):
        return value
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        # By their names in the API, such as `self-harm/intent`.
        found: Mapping[str, Any] = dump(by_alias=True)
        return found
    return {} if value is None else vars(value)
