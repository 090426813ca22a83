"""Which turns of a conversation the model is given.

Two things leave the history before a request waits. What was not answered leaves: the
user's turn and the fallback that followed it, so that no later "yes" gets it answered
and it does not block what comes after it. Then the oldest exchanges leave until the
policy's limits hold, and the model's own.

Trimming is a function of the turns and the limits alone. For a limit, let `total` be
what the whole history and the newest turn count. What has to go, `total - limit`, is
rounded up to whole blocks of a quarter of the limit, and the fewest of the oldest
exchanges go that count as much. As a conversation grows, `total` grows and the turns
at its beginning stay the same, so the first turn that is kept changes once for each
block that is added: between two changes a prompt begins as the one before, and what
was computed for it can be used again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeAlias

from sarguard.errors import InvalidRequestError
from sarguard.policy.fallback import Fallback
from sarguard.policy.messages import DEFAULT_MESSAGES, Reason
from sarguard.policy.model import Policy
from sarguard.policy.sections import Mode
from sarguard.serving.backend import BackendInfo
from sarguard.serving.request_guard import LimitViolation, ResolvedRequest
from sarguard.types import Outcome, Turn

CountTokens: TypeAlias = Callable[[Sequence[Turn]], Sequence[int]]
"""Tells how many prompt tokens each turn takes; see `Backend.count_tokens`."""

BLOCKS = 4
"""Blocks that a limit is divided into: trimming takes whole ones."""

TOKENS_RULE = "history.max_tokens"

# No answer, whatever the text says.
_WITHOUT_ANSWER = (Outcome.BLOCKED, Outcome.OVER_LIMIT, Outcome.ERROR_CLOSED)
# No answer where nothing was said.
_PARTIAL = (Outcome.TIMEOUT, Outcome.CANCELLED)


def fit_conversation(
    resolved: ResolvedRequest,
    info: BackendInfo,
    *,
    count_tokens: CountTokens,
    fallback: str,
) -> ResolvedRequest:
    """Return a request with the turns that the model is given, and how many left.

    Args:
        resolved: The request, its clips decoded.
        info: What the model holds.
        count_tokens: Counts prompt tokens, rather too many than too few.
        fallback: What the client says where a request fails before its policy holds.

    Returns:
        The request. Its `exceeded` is set where the policy refuses what is too long.

    Raises:
        InvalidRequestError: Its newest turn and system prompt alone are too long.
    """
    words = fallback_texts(resolved.policy.fallback, resolved.fallback, fallback)
    turns = _without(resolved.turns, unanswered(resolved.turns, words))
    left_out, answered = len(resolved.turns) - len(turns), len(turns)
    trims = resolved.policy.history.when_exceeded == "trim"
    if trims and info.single_audio:
        turns = _without(turns, superfluous_clips(turns))
    sizes = _Sizes.of(turns, count_tokens(turns), info.sampling_rate)
    answer = _answer_tokens(resolved.max_new_tokens, info)
    own = sizes.token_limit(None, info, answer)
    rules = sizes.limits(resolved.policy, info, answer)
    _check_rest([*rules, *own])
    exceeded = None
    if not trims:
        exceeded = next(filter(None, (rule.violation() for rule in rules)), None)
        # Shadow mode lets through what a policy forbids, never what no model can read.
        rules = own if resolved.policy.mode is Mode.SHADOW else []
    gone = max((rule.dropped() for rule in rules), default=0)
    dropped = {place for group in sizes.exchanges[:gone] for place in group}
    prompt = sum(n for place, n in enumerate(sizes.tokens) if place not in dropped)
    kept = _without(turns, dropped)
    return replace(
        resolved,
        turns=kept,
        left_out=left_out,
        trimmed=answered - len(kept),
        exceeded=exceeded,
        max_new_tokens=_room(resolved.max_new_tokens, info, prompt),
    )


def fallback_texts(rules: Fallback, *others: str) -> frozenset[str]:
    """Return every text that stands in place of an answer, its spaces folded.

    Args:
        rules: The policy's messages; the library's are added, in any language.
        others: More such texts.
    """
    texts = {
        text
        for locale in (DEFAULT_MESSAGES, rules.messages)
        for wordings in locale.values()
        for reason, wording in wordings.items()
        # Where the policy does not replace them, a refusal's words are the model's.
        if reason is not Reason.REFUSED or rules.replace_refusals
        for text in [wording if isinstance(wording, str) else wording.text]
    }
    return frozenset(_folded(text) for text in {*texts, *others} if text.strip())


def unanswered(turns: Sequence[Turn], words: Collection[str]) -> set[int]:
    """Return the places of turns that were not answered, and of what stands there.

    Whoever wrote the history may claim that a turn was blocked: what leaves the prompt
    cannot be answered, so a false claim gains nothing.

    Args:
        turns: A conversation, the newest turn last.
        words: Texts that stand in place of an answer, their spaces folded.
    """
    return {
        place
        for exchange in exchanges(turns)
        if any(_holds_no_answer(turns[place], words) for place in exchange)
        for place in exchange
    }


def superfluous_clips(turns: Sequence[Turn]) -> set[int]:
    """Return the places of turns that leave so that one clip at most is left.

    The newest clip stays, and older ones leave with what answered them.
    """
    room = 0 if turns[-1].audio else 1
    gone: set[int] = set()
    for exchange in reversed(exchanges(turns)):
        clips = sum(len(turns[place].audio) for place in exchange)
        if clips > room:
            gone.update(exchange)
        else:
            room -= clips
    return gone


def exchanges(turns: Sequence[Turn]) -> list[tuple[int, ...]]:
    """Return the history's exchanges, as the places of their turns.

    An exchange is what the user said and what followed until the user spoke again.
    The newest turn and system turns are in none.
    """
    found: list[list[int]] = []
    before = ""
    for place, turn in enumerate(turns[:-1]):
        if turn.role == "system":
            continue
        if not found or (turn.role == "user" and before == "assistant"):
            found.append([])
        found[-1].append(place)
        before = turn.role
    return [tuple(places) for places in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """A limit on a conversation, and what counts towards it."""

    rule: str
    limit: int
    counts: tuple[int, ...]
    """What each exchange of the history counts."""
    rest: int = 0
    """What counts and never leaves: the system prompt and the newest turn."""
    unit: int = 1
    """How many of what is counted make one of what the policy counts."""

    def violation(self) -> LimitViolation | None:
        """Return that the conversation exceeds the limit, if it does."""
        total = self.rest + sum(self.counts)
        if total <= self.limit:
            return None
        return LimitViolation(
            rule=self.rule, found=total / self.unit, limit=self.limit / self.unit
        )

    def dropped(self) -> int:
        """Return how many of the oldest exchanges have to leave."""
        over = self.rest + sum(self.counts) - self.limit
        if over <= 0:
            return 0
        # In whole numbers, so that no rounding error shifts a block.
        blocks = -(-over * BLOCKS // self.limit)
        for count, gone in enumerate(accumulate(self.counts), start=1):
            if gone * BLOCKS >= blocks * self.limit:
                return count
        return len(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What the turns of a conversation count towards its limits."""

    exchanges: list[tuple[int, ...]]
    tokens: tuple[int, ...]
    samples: tuple[int, ...]
    chars: tuple[int, ...]
    sampling_rate: int

    @classmethod
    def of(
        cls, turns: Sequence[Turn], tokens: Sequence[int], sampling_rate: int
    ) -> _Sizes:
        """Return the sizes of a conversation's turns."""
        return cls(
            exchanges=exchanges(turns),
            tokens=tuple(tokens),
            samples=tuple(sum(clip.size for clip in turn.audio) for turn in turns),
            chars=tuple(len(turn.text) for turn in turns),
            sampling_rate=sampling_rate,
        )

    def limits(self, policy: Policy, info: BackendInfo, answer: int) -> list[_Limit]:
        """Return a policy's limits, in the order in which one is named."""
        rules, rate = policy.history, self.sampling_rate
        turns = _Limit(
            rule="history.max_turns",
            limit=rules.max_turns,
            counts=tuple(map(len, self.exchanges)),
        )
        seconds = _Limit(
            rule="history.max_seconds",
            limit=max(1, int(rules.max_seconds * rate)),
            counts=self._counts(self.samples),
            unit=rate,
        )
        chars = _Limit(
            rule="text.max_chars",
            limit=policy.text.max_chars,
            counts=self._counts(self.chars),
            rest=self._rest(self.chars),
        )
        # What exceeds it alone is for the guard to block; no history has to go for it.
        within = [chars] if chars.rest <= chars.limit else []
        return [
            *(turns, seconds),
            *self.token_limit(rules.max_tokens, info, answer),
            *within,
        ]

    def token_limit(
        self, most: int | None, info: BackendInfo, answer: int
    ) -> list[_Limit]:
        """Return the limit on prompt tokens, if there is one.

        Args:
            most: The policy's own; the model's context holds above it.
            info: What the model holds.
            answer: Tokens that the answer may take.
        """
        context = info.context_tokens
        given = [] if most is None else [most]
        given += [] if context is None else [max(1, context - answer)]
        return [
            _Limit(
                rule=TOKENS_RULE,
                limit=limit,
                counts=self._counts(self.tokens),
                rest=self._rest(self.tokens),
            )
            for limit in sorted(given)[:1]
        ]

    def _counts(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sum(sizes[place] for place in ex) for ex in self.exchanges)

    def _rest(self, sizes: Sequence[int]) -> int:
        return sum(sizes) - sum(self._counts(sizes))


def _answer_tokens(asked: int, info: BackendInfo) -> int:
    """Return how much of the context is kept for the answer.

    Not more than half, so that a generous `max_new_tokens` leaves a prompt its place.
    """
    context = info.context_tokens
    return asked if context is None else min(asked, context // 2)


def _room(asked: int, info: BackendInfo, prompt: int) -> int:
    """Return the most tokens that an answer has in the context beside its prompt."""
    if info.context_tokens is None:
        return asked
    return max(1, min(asked, info.context_tokens - prompt))


def _check_rest(limits: Sequence[_Limit]) -> None:
    """Refuse a request that does not fit even without its history."""
    for limit in limits:
        if limit.rule == TOKENS_RULE and limit.rest > limit.limit:
            raise InvalidRequestError(
                f"the newest turn and the system prompt take {limit.rest} prompt "
                f"tokens, there is room for {limit.limit}: shorten the text, send a "
                "shorter clip or fewer clips, or ask for a smaller max_new_tokens"
            )


def _holds_no_answer(turn: Turn, words: Collection[str]) -> bool:
    if turn.role != "assistant":
        return False
    if turn.outcome in _WITHOUT_ANSWER:
        return True
    text = _folded(turn.text)
    return text in words or (turn.outcome in _PARTIAL and not text)


def _without(turns: Sequence[Turn], gone: Collection[int]) -> tuple[Turn, ...]:
    return tuple(turn for place, turn in enumerate(turns) if place not in gone)


def _folded(text: str) -> str:
    return " ".join(text.split())
