"""Checks beside the gate: of what comes in, and of what goes out.

A check is a name, a version, a function and a time budget. Input checks see the turns,
their clips decoded, and transcripts that are made once for all of them. Output checks
see the answer so far; while it is streamed, a piece goes out only after they passed.
A check that fails or takes too long has not passed: whether the answer is let out then
is for the policy to say (`failure.on_fault`). Every verdict stands in the record.
`check_runner.py` runs them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sarguard.errors import ConfigurationError
from sarguard.guard.transcripts import SpeechRecogniser, Transcriber, Transcripts
from sarguard.policy.tiers import Tier
from sarguard.serving.request import RequestContext
from sarguard.steering.dose import check_alpha
from sarguard.types import Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,40}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check says.

    A policy may say otherwise what a flag does, and from which score there is one
    (`checks.rules`).
    """

    blocked: bool = False
    """Whether the check flags what it saw; the request then gets no answer."""
    hold: int = 0
    """Characters at the end of the answer so far that must not go out before more of
    it is known; output checks alone."""
    raise_to: Tier | str | float | None = None
    """The least tier, or the least steering coefficient, that the answer is to have;
    a flag too. A check can only raise a dose; input checks alone."""
    score: float | None = None
    """What the check made of it, as a number that rises with harm; it stands in the
    record, and a policy's threshold is held against it."""
    threshold: float | None = None
    """The score from which the check itself flags; for the record."""
    label: str | None = None
    """What the check calls what it found, such as a category; it stands in the record,
    so it must not quote what was said."""

    def __post_init__(self) -> None:
        for name in ("score", "threshold"):
            value = getattr(self, name)
            # NaN is below every threshold, and would pass.
            if value is not None and not math.isfinite(value):
                raise ConfigurationError(
                    f"the {name} of a check is {value}: it has to be finite"
                )
        if self.raise_to is None:
            return
        if isinstance(self.raise_to, (int, float)):
            check_alpha("raise_to", self.raise_to)
        else:
            # Past the frozen class's own __setattr__.
            object.__setattr__(self, "raise_to", Tier.named(self.raise_to))


ALLOW = CheckResult()
BLOCK = CheckResult(blocked=True)


class InputView:
    """What an input check sees of a request."""

    def __init__(
        self,
        turns: tuple[Turn, ...],
        context: RequestContext,
        *,
        sample_rate: int,
        transcriber: SpeechRecogniser | Transcriber | Transcripts | None,
    ) -> None:
        self.turns = turns
        """The conversation, oldest first, its clips decoded."""
        self.context = context
        self.sample_rate = sample_rate
        """Samples a second of every clip."""
        if not isinstance(transcriber, Transcripts):
            named = None if transcriber is None else SpeechRecogniser.named(transcriber)
            transcriber = Transcripts(named, sample_rate)
        self._transcripts = transcriber

    @property
    def text(self) -> str:
        """Return what the newest turn says in writing."""
        return self.turns[-1].text if self.turns else ""

    @property
    def transcript(self) -> str | None:
        """Return what the newest turn's clips say; None without a transcriber.

        It is made when the first check asks for it.
        """
        if self._transcripts.recogniser is None:
            return None
        clips = self.turns[-1].audio if self.turns else ()
        return " ".join(self.transcribe(clip) for clip in clips)

    @property
    def words(self) -> str:
        """Return what the newest turn says, aloud and in writing.

        Raises:
            ConfigurationError: It has a clip, and there is no transcriber: a check of
                words alone would pass what it has not read.
        """
        return self.words_of(self.turns[-1]) if self.turns else ""

    def words_of(self, turn: Turn) -> str:
        """Return what a turn says, aloud and in writing; errors are those of `words`.

        Each clip of a request is transcribed once.
        """
        heard = [self.transcribe(clip) for clip in turn.audio]
        return "\n".join(filter(None, (*heard, turn.text)))

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """Return what a clip of this request says.

        Raises:
            CheckTimeoutError: The transcriber took too long.
            ConfigurationError: There is none, or it may not be asked.
        """
        return self._transcripts.of(clip)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputView:
    """What an output check sees of an answer."""

    text: str
    """The answer so far, from its beginning."""
    final: bool
    """Whether nothing follows."""
    context: RequestContext


InputFunction: TypeAlias = Callable[[InputView], CheckResult | Awaitable[CheckResult]]
OutputFunction: TypeAlias = Callable[[OutputView], CheckResult | Awaitable[CheckResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    name: str
    """A word of lower-case letters, digits and dashes; it stands in records."""
    version: str = "1"
    """Changes with what the check does; it stands in records."""
    timeout_s: float = 5.0
    """Seconds that it may take, transcripts aside; longer has not passed."""
    remote: str | None = None
    """The service outside of this process that it hands content to, as the policy
    names it; None where nothing leaves."""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name) or not self.version or not self.timeout_s > 0:
            raise ConfigurationError(
                f"a check named {self.name!r}, version {self.version!r}, of "
                f"{self.timeout_s} seconds: give a name of lower-case letters, digits "
                "and dashes, a version, and a time above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCheck(_Check):
    """A check of a request, before the model is asked."""

    run: InputFunction
    """Plain or async; called on a thread of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck(_Check):
    """A check of an answer, before it goes out.

    It runs for every piece while the model waits, so it has to be quick.
    """

    run: OutputFunction
    """Plain or async; called on a thread of its own."""


def phrase_check(
    name: str,
    phrases: Sequence[str] = (),
    *,
    patterns: Sequence[str] = (),
    version: str = "1",
    timeout_s: float = 1.0,
) -> tuple[InputCheck, OutputCheck]:
    """Return an input and an output check that block a list of phrases or patterns.

    The input check reads what the newest turn says in writing, and its transcript
    where the client has a transcriber. While an answer is streamed, words that may
    turn out to be the beginning of a phrase are held back; a pattern is seen only
    when all of it is there.

    Args:
        name: Name of both checks; `-output` is added to the second's.
        phrases: Words, whatever their case and spacing.
        patterns: Regular expressions, whatever their case.
        version: Version of the list.
        timeout_s: Seconds that one look may take.

    Raises:
        ConfigurationError: There is neither phrase nor pattern, or a pattern is none.
    """
    if isinstance(phrases, str) or isinstance(patterns, str):
        raise ConfigurationError(
            "phrases and patterns are lists of strings, not one string"
        )
    words = [" ".join(phrase.split()).casefold() for phrase in phrases]
    if not [*words, *patterns] or not all(words):
        raise ConfigurationError(
            "a check of no phrases and no patterns, or of an empty one, says nothing: "
            "give at least one, none empty"
        )
    # As written and folded: case-insensitive patterns do not know that ß is ss. No
    # word goes on at either end, where the phrase ends in one or not.
    written = sorted({*words, *(" ".join(phrase.split()) for phrase in phrases)})
    spaced = [
        r"(?<!\w)" + r"\s+".join(map(re.escape, w.split())) + r"(?!\w)" for w in written
    ]
    try:
        found = re.compile("|".join(f"(?:{p})" for p in (*spaced, *patterns)), re.I)
    except re.error as error:
        raise ConfigurationError(
            f"a pattern of check {name} is none: {error}"
        ) from error

    def check_input(view: InputView) -> CheckResult:
        said = " ".join(filter(None, (view.text, view.transcript)))
        return BLOCK if found.search(said) else ALLOW

    def check_output(view: OutputView) -> CheckResult:
        matches = list(found.finditer(view.text))
        if any(view.final or match.end() < len(view.text) for match in matches):
            return BLOCK
        # Its last word may go on, and be another one.
        begun = max((len(view.text) - match.start() for match in matches), default=0)
        return CheckResult(hold=max(begun, _possible_start(view.text, words)))

    return (
        InputCheck(name=name, version=version, timeout_s=timeout_s, run=check_input),
        OutputCheck(
            name=f"{name}-output",
            version=version,
            timeout_s=timeout_s,
            run=check_output,
        ),
    )


def _possible_start(text: str, phrases: Sequence[str]) -> int:
    """Return how many characters at the end may begin one of the phrases."""
    longest = max((len(phrase) for phrase in phrases), default=0)
    # Spaces in the text may be more than the phrase has: count generously.
    for start in range(max(0, len(text) - 2 * longest), len(text)):
        if start and text[start - 1].isalnum():
            continue
        tail = " ".join(text[start:].split()).casefold()
        if tail and any(phrase.startswith(tail) for phrase in phrases):
            return len(text) - start
    return 0


# Private keys, cloud and API keys, JSON web tokens, bearer tokens.
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9_-]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\bAIza[0-9A-Za-z_-]{30,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"
    r"|\b[Bb]earer\s+[A-Za-z0-9._~+/-]{20,}"
)
# A run of digits, spaces and single dashes between them; none is part of a fraction.
_DIGITS = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,}")
# First digits and lengths of the large issuers' cards (ISO/IEC 7812 ranges).
_CARDS = re.compile(
    r"(?=(4\d{12})(\d{3})?(\d{3})?)"
    r"|(?=(5[1-5]\d{14}|2[2-7]\d{14}))"
    r"|(?=(3[47]\d{13}))"
    r"|(?=(3(?:0[0-5]|[689]\d)\d{11}))"
    r"|(?=(6\d{15})(\d{3})?|(35\d{14}))"
)
# Digits, or a word long enough to be the beginning of a key, that may go on.
_OPEN_END = re.compile(r"(?:\d[\d -]*|[A-Za-z0-9._~+/=-]{12,}|-{2,}[A-Z -]*)$")


def secrets_check(*, version: str = "1", timeout_s: float = 1.0) -> OutputCheck:
    """Return an output check that blocks payment card numbers, keys and tokens.

    A card number begins and is as long as a large issuer's, spaces and dashes between
    its digits allowed, and satisfies the Luhn formula (ISO/IEC 7812-1, Annex B). While
    an answer is streamed, digits at its end are held back until it is clear that they
    are none.
    """

    def run(view: OutputView) -> CheckResult:
        if _SECRETS.search(view.text) or _has_card(view.text):
            return BLOCK
        tail = _OPEN_END.search(view.text)
        return CheckResult(hold=0 if tail is None else len(tail[0]))

    return OutputCheck(name="secrets", version=version, timeout_s=timeout_s, run=run)


def _has_card(text: str) -> bool:
    """Return whether a card number begins a run of digits, or a group within one.

    Whatever follows it is ignored, so that it is the same however a text is cut into
    pieces.
    """
    for run in _DIGITS.finditer(text):
        groups = re.split(r"[ -]", run[0])
        for start in range(len(groups)):
            found = _CARDS.match("".join(groups[start:]))
            if found is None:
                continue
            number = ""
            for part in found.groups(""):
                # The parts of one kind lengthen each other: 13, 16 and 19 digits.
                number += part
                if part and _satisfies_luhn(number):
                    return True
    return False


def _satisfies_luhn(number: str) -> bool:
    digits = [int(digit) for digit in reversed(number)]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
