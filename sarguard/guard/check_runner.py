"""Running a client's checks, and what follows from their verdicts under a policy."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from sarguard.errors import CheckTimeoutError, ConfigurationError
from sarguard.guard.checks import (
    ALLOW,
    CheckResult,
    InputCheck,
    InputView,
    OutputCheck,
    OutputView,
)
from sarguard.guard.recorder import CHECK_RULES
from sarguard.guard.time_budget import run_within
from sarguard.guard.transcripts import SpeechRecogniser, Transcripts, not_named
from sarguard.policy.check_rules import CheckRule, OnFlag
from sarguard.policy.model import Policy
from sarguard.policy.sections import Mode
from sarguard.policy.tiers import Tier
from sarguard.serving.request_guard import (
    Block,
    CheckOutcome,
    CheckStage,
    CheckVerdict,
    Findings,
    ResolvedRequest,
    Screening,
)

_ALLOWED: CheckOutcome = "allowed"
_DONE: dict[OnFlag, CheckOutcome] = {
    "block": "blocked",
    "raise": "raised",
    "note": "noted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """The checks of a client, and what runs them."""

    input: tuple[InputCheck, ...] = ()
    output: tuple[OutputCheck, ...] = ()
    transcriber: SpeechRecogniser | None = None
    sample_rate: int = 16_000

    def __post_init__(self) -> None:
        names = [check.name for check in self.all]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationError(
                f"two checks are named {', '.join(twice)}: records tell them apart by "
                "name, so give each its own"
            )

    @property
    def all(self) -> tuple[InputCheck | OutputCheck, ...]:
        """Return every check."""
        return (*self.input, *self.output)

    def hold_to(self, policy: Policy) -> None:
        """Hold the checks to what a policy says of them.

        Raises:
            ConfigurationError: The policy wants a check that is not there, or does not
                name a service that one of them asks.
        """
        problems = list(self._problems(policy))
        if problems:
            raise ConfigurationError(f"policy {policy.id}: " + "\n".join(problems))

    def check_input(self, resolved: ResolvedRequest, found: Findings) -> Findings:
        """Return what was found, the input checks' verdicts included."""
        transcripts = Transcripts(
            self.transcriber,
            self.sample_rate,
            services=resolved.policy.checks.services,
        )
        view = InputView(
            resolved.turns,
            resolved.request.context,
            sample_rate=self.sample_rate,
            transcriber=transcripts,
        )
        for check in self.input:
            look = _Look(check, "input", partial(check.run, view), transcripts.spent_s)
            _, found = _apply(look, resolved, found)
            if found.block is not None or found.error is not None:
                break
        return _with_transcript(found, transcripts)

    def check_output(
        self, resolved: ResolvedRequest, found: Findings, text: str, *, final: bool
    ) -> Screening:
        """Return what the output checks let out of an answer so far."""
        view = OutputView(text=text, final=final, context=resolved.request.context)
        hold = 0
        for check in self.output:
            look = _Look(check, "output", partial(check.run, view), lambda: 0.0)
            result, found = _apply(look, resolved, found)
            if found.block is not None or found.error is not None:
                break
            hold = max(hold, result.hold)
        return Screening(findings=found, hold=0 if final else hold)

    def _problems(self, policy: Policy) -> Iterator[str]:
        there = {check.name for check in self.all}
        for name, rule in policy.checks.rules.items():
            if rule.required and name not in there:
                yield (
                    f"it has a rule for the check {name}, and the client has none of "
                    "that name: give it, or set required: false in the rule"
                )
        for check in self.output:
            if policy.checks.rule(check.name).on_flag == "raise":
                yield (
                    f"checks.rules.{check.name}.on_flag is raise: a check of the "
                    "answer comes too late to raise its dose; set block or note"
                )
        asked = [*self.all, *(() if self.transcriber is None else (self.transcriber,))]
        for one in asked:
            if one.remote is not None and one.remote not in policy.checks.services:
                yield not_named(one.name, one.remote)


class _Look(NamedTuple):
    """One look of one check."""

    check: InputCheck | OutputCheck
    stage: CheckStage
    run: Callable[[], CheckResult | Awaitable[CheckResult]]
    paused_s: Callable[[], float]


def _apply(
    look: _Look, resolved: ResolvedRequest, found: Findings
) -> tuple[CheckResult, Findings]:
    """Run one check and add its verdict to what was found."""
    check, rule = look.check, resolved.policy.checks.rule(look.check.name)
    result, verdict = ALLOW, _ALLOWED
    try:
        result = _ask(look, resolved.policy, rule)
        verdict = _verdict(check, result, rule)
    except Exception as failure:
        verdict = "timed_out" if isinstance(failure, CheckTimeoutError) else "failed"
        found = found.failed(failure, resolved.policy)
    raise_to = _raise_to(result, rule) if verdict == "raised" else None
    if verdict == "blocked":
        found = replace(found, rule=found.rule or f"{CHECK_RULES}{check.name}")
        # Shadow mode notes the rule and lets the request through.
        if resolved.policy.mode is not Mode.SHADOW:
            reason = f"check {check.name} {check.version} said so"
            found = replace(found, block=Block(reason=reason))
    elif isinstance(raise_to, Tier):
        found = replace(found, min_tier=max(found.min_tier or raise_to, raise_to))
    elif raise_to is not None:
        found = replace(found, min_alpha=max(found.min_alpha, raise_to))
    threshold = result.threshold if rule.threshold is None else rule.threshold
    new = CheckVerdict(
        name=check.name,
        version=check.version,
        stage=look.stage,
        verdict=verdict,
        score=result.score,
        threshold=None if result.score is None else threshold,
        label=result.label,
        raised_to=None if raise_to is None else str(raise_to),
    )
    return result, replace(found, checks=_noted(found.checks, new))


def _ask(look: _Look, policy: Policy, rule: CheckRule) -> CheckResult:
    check = look.check
    # Asked for each request: an override may have named the service, and expired.
    if check.remote is not None and check.remote not in policy.checks.services:
        raise ConfigurationError(not_named(check.name, check.remote))
    seconds = check.timeout_s if rule.budget_s is None else rule.budget_s
    result = run_within(
        seconds, look.run, f"check {check.name}", paused_s=look.paused_s
    )
    if not isinstance(result, CheckResult):
        raise ConfigurationError(
            f"check {check.name} returned {type(result).__name__}: return ALLOW, "
            "BLOCK or a CheckResult"
        )
    if result.raise_to is not None and look.stage == "output":
        raise ConfigurationError(
            f"check {check.name} raises the dose of an answer that has begun: block "
            "it instead"
        )
    return result


def _verdict(
    check: InputCheck | OutputCheck, result: CheckResult, rule: CheckRule
) -> CheckOutcome:
    """Return what a result does under a rule."""
    flagged = result.blocked or result.raise_to is not None
    if rule.threshold is not None:
        if result.score is None:
            raise ConfigurationError(
                f"checks.rules.{check.name}.threshold is set, and the check gives no "
                "score: remove the threshold"
            )
        flagged = result.score >= rule.threshold
    if not flagged:
        return _ALLOWED
    if rule.on_flag is not None:
        return _DONE[rule.on_flag]
    # Where a check asks for both, the stricter of the two.
    asks_more = result.raise_to is not None and not result.blocked
    return "raised" if asks_more else "blocked"


def _raise_to(result: CheckResult, rule: CheckRule) -> Tier | float:
    asked = result.raise_to if rule.raise_to is None else rule.raise_to
    if isinstance(asked, (int, float)):
        return asked
    return Tier.MAXIMUM if asked is None else Tier.named(asked)


def _noted(
    known: tuple[CheckVerdict, ...], new: CheckVerdict
) -> tuple[CheckVerdict, ...]:
    """Return verdicts with one more; an output check has one for its whole answer."""
    kept = [old for old in known if (old.name, old.stage) != (new.name, new.stage)]
    earlier = [old for old in known if old not in kept]
    # A piece that passes does not undo that an earlier one did not, or scored more.
    if earlier and new.verdict == "allowed":
        passed = all(old.verdict == "allowed" for old in earlier)
        scores = [old.score for old in earlier if old.score is not None]
        lower = new.score is None or new.score <= max(scores, default=-math.inf)
        if lower or not passed:
            return known
    return (*kept, new)


def _with_transcript(found: Findings, transcripts: Transcripts) -> Findings:
    """Add how making the transcripts went, where one was asked for."""
    recogniser, state = transcripts.recogniser, transcripts.state
    if recogniser is None or state is None:
        return found
    verdict = CheckVerdict(
        name=recogniser.name,
        version=recogniser.version,
        stage="transcript",
        verdict=state,
    )
    return replace(found, checks=(verdict, *found.checks))
