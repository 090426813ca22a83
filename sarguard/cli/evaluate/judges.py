"""The judges that `sarguard evaluate` is told to label with."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    from sarguard.evaluation.judges.rules import Judge

KEY = "SARGUARD_JUDGE_KEY"
SECOND_KEY = "SARGUARD_SECOND_JUDGE_KEY"
RULES = "rules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """Who labels a run's answers."""

    first: Judge
    """The one that the figures go by."""
    second: Judge | None = None


@contextmanager
def open_judges(options: argparse.Namespace) -> Iterator[Judges]:
    """Open the judges that the options name, and close them at the end.

    Raises:
        ConfigurationError: Options contradict each other, or name nothing.
        MissingDependencyError: httpx is not installed, for a judge behind an endpoint.
    """
    _check(options)
    from sarguard.evaluation.judges.rules import RuleJudge

    with ExitStack() as opened:
        first: Judge = RuleJudge()
        second: Judge | None = None
        if options.judge_url is not None:
            first = _endpoint(opened, options.judge_url, options.judge_model, KEY)
        if options.second_judge_url is not None:
            second = _endpoint(
                opened,
                options.second_judge_url,
                options.second_judge_model,
                SECOND_KEY if SECOND_KEY in os.environ else KEY,
            )
        elif options.second_judge is not None:
            second = _named(options.second_judge)
        if second is not None and second.name == first.name:
            raise ConfigurationError(
                f"both judges are called {first.name}: give two that differ, or one"
            )
        yield Judges(first=first, second=second)


def _check(options: argparse.Namespace) -> None:
    for prefix in ("judge", "second_judge"):
        given = [getattr(options, f"{prefix}_{part}") for part in ("url", "model")]
        if given.count(None) == 1:
            flag = "--" + prefix.replace("_", "-")
            raise ConfigurationError(
                f"a judge behind an endpoint needs both {flag}-url and {flag}-model"
            )
    if options.second_judge is not None and options.second_judge_url is not None:
        raise ConfigurationError(
            "--second-judge and --second-judge-url each name a second judge: give one"
        )


def _endpoint(opened: ExitStack, url: str, model: str, key: str) -> Judge:
    from sarguard.evaluation.judges.llm import LlmJudge

    judge = LlmJudge(url=url, model=model, key=os.environ.get(key))
    return opened.enter_context(judge)


def _named(said: str) -> Judge:
    """Return the rules, or what a module of the caller's holds by some name."""
    from sarguard.evaluation.judges.function import as_judge
    from sarguard.evaluation.judges.rules import Judge, RuleJudge

    if said == RULES:
        return RuleJudge()
    module, colon, name = said.partition(":")
    if not colon:
        raise ConfigurationError(
            f"--second-judge is {said!r}: give {RULES}, or MODULE:NAME of a function "
            "or a judge"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"--second-judge is {said!r}, which cannot be imported: {error}"
        ) from error
    if not isinstance(found, Judge) and not callable(found):
        raise ConfigurationError(
            f"--second-judge is {said!r}, which is neither a function nor a judge "
            f"with a name and a label() (found {type(found).__name__})"
        )
    return as_judge(found)
