"""Weak settings of a policy, as findings with a fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sarguard.policy.fallback import Wording, normalise_locale
from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.policy.model import UNNAMED, Policy
from sarguard.policy.section import as_utc
from sarguard.policy.sections import MIN_RETENTION_DAYS, Mode
from sarguard.policy.tiers import Tier

_LONG_TIMEOUT_S = 120
_LONG_CLIP_S = 600
_MANY_TOKENS = 4096
_MANY_TURNS = 1000
_LONG_HISTORY_S = 3600
_LONG_OPEN = timedelta(days=7)
_MANY_RECORDS = 1000
_LONG_CHECKPOINT_S = 3600
_LONG_OVERRIDE_H = 72
_FEW_DECISION_TOKENS = 24
# Words that tell a caller what blocked them.
_REVEALING = (
    *("policy", "threshold", "rule", "score", "filter", "jailbreak", "steering"),
    *("guardrail", "sarguard", "classifier", "moderation", "flagged"),
)


class Severity(StrEnum):
    """Weight of a finding."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """One finding."""

    code: str
    """Stable from version to version."""
    severity: Severity
    path: str
    """The setting."""
    found: str
    fix: str

    def to_dict(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return {**asdict(self), "severity": self.severity.value}


def lint(policy: Policy, now: datetime | None = None) -> list[LintFinding]:
    """Return what is weak in a policy, the most severe first.

    Args:
        policy: What to look at.
        now: Time to judge expiries by; the default is the present.

    Raises:
        PolicyFormatError: The time has no time zone.
    """
    time = as_utc(now)
    found = [weak for check in _CHECKS for weak in check(policy)]
    found += _check_failure(policy, time)
    found += _check_shadow(policy, time)
    order = list(Severity)
    return sorted(found, key=lambda weak: (order.index(weak.severity), weak.code))


def _finding(severity: Severity) -> Callable[[str, str, str, str], LintFinding]:
    def finding(code: str, path: str, found: str, fix: str) -> LintFinding:
        return LintFinding(
            code=code, severity=severity, path=path, found=found, fix=fix
        )

    return finding


_error = _finding(Severity.ERROR)
_warning = _finding(Severity.WARNING)
_note = _finding(Severity.NOTE)


def _check_id(policy: Policy) -> Iterator[LintFinding]:
    if policy.id == UNNAMED:
        yield _warning(
            *("P001", "id", "records cannot tell this policy from others"),
            "give it a name",
        )


def _check_steering(policy: Policy) -> Iterator[LintFinding]:
    steering = policy.steering
    if steering.tier is Tier.PERMISSIVE:
        yield _warning(
            *("P102", "steering.tier", "the mildest tier holds by default"),
            "set tier: balanced, unless the card's figures justify it",
        )
    if policy.floor < steering.tier:
        yield _note(
            *("P103", "steering.floor"),
            f"a request may ask for {policy.floor}, below {steering.tier}",
            "leave floor out, or raise it to the tier",
        )
    if steering.block_threshold == "never":
        yield _warning(
            *("P104", "steering.block_threshold", "no request is ever blocked"),
            "set block_threshold: tier",
        )
    elif steering.block_threshold != "tier":
        yield _note(
            *("P105", "steering.block_threshold", "the tier's own score is not used"),
            "measure this score on your model, or set block_threshold: tier",
        )
    if steering.decision_tokens < _FEW_DECISION_TOKENS:
        yield _warning(
            *("P108", "steering.decision_tokens", "sampling may undo a refusal"),
            f"set decision_tokens: {_FEW_DECISION_TOKENS} or more",
        )
    if steering.alpha is not None:
        yield _note(
            *(
                "P106",
                "steering.alpha",
                "the card's figures do not cover this strength",
            ),
            "measure it on your model, or leave alpha out and raise the tier",
        )


def _check_shadow(policy: Policy, now: datetime) -> Iterator[LintFinding]:
    if policy.answers_bare(now):
        yield _error(
            *("P107", "shadow.reply", "blocks do not hold, and answers are unsteered"),
            "set shadow.reply: steered",
        )
    elif policy.mode is Mode.SHADOW:
        yield _warning(
            *("P101", "mode", "blocks are recorded, and do not hold"),
            "set mode: enforce once the records have been looked at",
        )


def _check_failure(policy: Policy, now: datetime) -> Iterator[LintFinding]:
    failure = policy.failure
    if failure.on_fault != "open" or failure.open_until is None:
        return
    if not failure.is_open(now):
        yield _warning(
            *("P202", "failure.open_until", "failing open has expired: faults close"),
            "set on_fault: closed, and remove open_reason and open_until",
        )
        return
    yield _error(
        *("P201", "failure.on_fault", "answers leave although something failed"),
        "set on_fault: closed",
    )
    if failure.open_until - now > _LONG_OPEN:
        yield _warning(
            *("P203", "failure.open_until", "failing open holds for more than a week"),
            "let it expire sooner",
        )


def _check_limits(policy: Policy) -> Iterator[LintFinding]:
    if policy.timeouts.total_s > _LONG_TIMEOUT_S:
        yield _warning(
            *(
                "P301",
                "timeouts.total_s",
                f"a caller may wait {policy.timeouts.total_s:g} s",
            ),
            f"set at most {_LONG_TIMEOUT_S}",
        )
    if policy.timeouts.queue_s > _LONG_TIMEOUT_S:
        yield _warning(
            *(
                "P302",
                "timeouts.queue_s",
                f"a request may queue {policy.timeouts.queue_s:g} s",
            ),
            f"set at most {_LONG_TIMEOUT_S}",
        )
    if policy.audio.max_seconds > _LONG_CLIP_S:
        yield _warning(
            *("P303", "audio.max_seconds", "one clip can occupy the machine for long"),
            f"set at most {_LONG_CLIP_S}",
        )
    if policy.text.max_new_tokens > _MANY_TOKENS:
        yield _warning(
            *(
                "P304",
                "text.max_new_tokens",
                "one answer can occupy the machine for long",
            ),
            f"set at most {_MANY_TOKENS}",
        )


def _check_history(policy: Policy) -> Iterator[LintFinding]:
    history = policy.history
    if history.max_turns > _MANY_TURNS:
        yield _warning(
            *(
                "P305",
                "history.max_turns",
                "one prompt can occupy the machine for long",
            ),
            f"set at most {_MANY_TURNS}",
        )
    if history.max_seconds > _LONG_HISTORY_S:
        yield _warning(
            *(
                "P305",
                "history.max_seconds",
                "one prompt can occupy the machine for long",
            ),
            f"set at most {_LONG_HISTORY_S}",
        )
    if history.when_exceeded == "refuse":
        yield _note(
            *("P306", "history.when_exceeded"),
            "a conversation that reaches a limit gets no more answers",
            "set when_exceeded: trim, unless whoever asks shortens the history",
        )


def _check_audit(policy: Policy) -> Iterator[LintFinding]:
    audit = policy.audit
    if not audit.required:
        yield _error(
            *("P401", "audit.required", "answers may leave without any record"),
            "set required: true",
        )
    if audit.content == "redacted":
        yield _warning(
            *("P402", "audit.content", "callers' words stand readable in the ledger"),
            "set content: none, or encrypted, which can be erased",
        )
    if audit.on_write_failure == "degrade":
        yield _warning(
            *("P403", "audit.on_write_failure", "answers leave when no record can"),
            "set on_write_failure: block, or spool",
        )
    if audit.on_write_failure == "spool":
        yield _note(
            *("P404", "audit.on_write_failure", "spooled records are not yet signed"),
            "set on_write_failure: block where every record counts",
        )
    if (
        audit.checkpoint_records > _MANY_RECORDS
        or audit.checkpoint_seconds > _LONG_CHECKPOINT_S
    ):
        yield _warning(
            *(
                "P405",
                "audit.checkpoint_records",
                "the newest records stay unsigned long",
            ),
            f"sign every {_MANY_RECORDS} records and every hour at least",
        )


def _check_retention(policy: Policy) -> Iterator[LintFinding]:
    if policy.retention.days < MIN_RETENTION_DAYS:
        yield _warning(
            *(
                "P501",
                "retention.days",
                f"records go after {policy.retention.days} days",
            ),
            f"keep them for at least {MIN_RETENTION_DAYS} days",
        )


def _check_messages(policy: Policy) -> Iterator[LintFinding]:
    fallback = policy.fallback
    spoken = {fallback.locale, *fallback.messages}
    for locale in sorted(spoken):
        missing = [r for r in Reason if fallback.message(r, locale).locale != locale]
        served = {fallback.message(reason, locale).locale for reason in missing}
        if missing and served != {_language(locale)}:
            yield _warning(
                *("P601", f"fallback.messages.{locale}"),
                f"no message for {', '.join(missing)}: callers hear {min(served)}",
                "write the missing messages",
            )
        elif locale in fallback.messages and len(fallback.messages[locale]) < len(
            Reason
        ):
            yield _note(
                *("P602", f"fallback.messages.{locale}"),
                "some messages are yours, the others the library's",
                "write the others too, if they should sound alike",
            )
    for locale, wordings in fallback.messages.items():
        for reason, words in wordings.items():
            told = _revealed(words)
            if told:
                yield _warning(
                    *("P603", f"fallback.messages.{locale}.{reason}"),
                    f"it says {told!r}, which tells callers what stopped them",
                    "say only that there is no answer",
                )


def _check_checks(policy: Policy) -> Iterator[LintFinding]:
    for name, rule in policy.checks.rules.items():
        if rule.on_flag == "note":
            yield _note(
                *("P801", f"checks.rules.{name}.on_flag"),
                "what this check flags is answered",
                "set on_flag: block or raise once the records have been looked at",
            )
    if policy.checks.services:
        yield _note(
            *("P802", "checks.services"),
            f"callers' sound and words may go to {', '.join(policy.checks.services)}",
            "remove the services that are not needed",
        )


def _check_overrides(policy: Policy) -> Iterator[LintFinding]:
    rules = policy.overrides
    if rules.allowed and not rules.second_person:
        yield _note(
            *("P701", "overrides.second_person", "one person alone may set it aside"),
            "set second_person: true",
        )
    if rules.allowed and rules.longest_hours > _LONG_OVERRIDE_H:
        yield _warning(
            *("P702", "overrides.longest_hours", "an override may hold for many days"),
            f"set at most {_LONG_OVERRIDE_H}",
        )


def _language(locale: str) -> str | None:
    """Return the language whose default messages serve a locale."""
    language = (normalise_locale(locale) or "").partition("-")[0]
    return language if language in DEFAULT_MESSAGES else None


def _revealed(words: Wording) -> str | None:
    said = words.text.casefold()
    return next((word for word in _REVEALING if word in said.split()), None)


_CHECKS: tuple[Callable[[Policy], Iterator[LintFinding]], ...] = (
    *(
        _check_id,
        _check_steering,
        _check_limits,
        _check_history,
        _check_audit,
        _check_retention,
        _check_messages,
        _check_checks,
        _check_overrides,
    ),
)
