"""Running every arm over the same requests, and labelling what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sarguard.conversation import Turn
from sarguard.errors import InsufficientDataError
from sarguard.evaluation.answering import (
    Answer,
    Batch,
    answer_arm,
    answer_batch,
    make_batches,
    prefill,
    with_instruction,
)
from sarguard.evaluation.arms import (
    Arm,
    OpenArm,
    Setup,
    UnguardedForMeasurement,
    open_arm,
)
from sarguard.evaluation.items import Item, check_items
from sarguard.evaluation.judge import Label
from sarguard.evaluation.judging import Judge, RuleJudge
from sarguard.evaluation.records import AnswerRecord
from sarguard.evaluation.run_log import Log, MemoryLog
from sarguard.evaluation.topic import TopicJudge
from sarguard.models.loading import LoadedModel

MAX_NEW_TOKENS = 40
BATCH_SIZE = 16
_BATCHES_PLANNED = 8
_START_WORDS = 14

Advance = Callable[[int, int, str], None]
"""Called with answers done, answers in all, and the arm at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """Say how the questions are asked and judged."""

    judge: Judge = field(default_factory=RuleJudge)
    topic: TopicJudge | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int = BATCH_SIZE


def run_arms(
    setup: Setup,
    items: Sequence[Item],
    arms: Sequence[Arm],
    *,
    conduct: Conduct | None = None,
    log: Log | None = None,
    progress: Advance | None = None,
) -> tuple[AnswerRecord, ...]:
    """Ask every request in every arm, and return all records of the log.

    Answers that the log has already are not asked for again. Batches are the same
    whatever is left, so a run that was stopped ends as one that was not.

    Args:
        setup: The model, with no steerer attached, and what arms are made of.
        items: What is asked.
        arms: How the model is guarded.
        conduct: How it is asked and judged.
        log: Where records go; in memory if not given.
        progress: Called before every batch of every arm, and at the end.

    Raises:
        InsufficientDataError: There is no request or no arm.
        SteeringError: An answer cannot be proven to be steered.
        JudgeError: The judge gave no label.
    """
    if not items or not arms:
        raise InsufficientDataError(
            f"{len(items)} request(s) in {len(arms)} arm(s): give one of each"
        )
    check_items(items)
    run = _Run(setup, arms, conduct or Conduct(), log or MemoryLog(), progress)
    run.total = len(items) * len(arms)
    for chunk in _chunks(items, run.conduct.batch_size * _BATCHES_PLANNED):
        run.ask(chunk)
    if progress is not None:
        progress(run.total, run.total, "")
    return run.log.records


def answer_in_writing(
    loaded: LoadedModel,
    items: Sequence[Item],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
) -> dict[str, str]:
    """Return the bare model's answer to every request that is known in writing."""
    requests = [_Written(text) for text in dict.fromkeys(i.request for i in items)]
    asked = [written for written in requests if written.text]
    found: dict[str, str] = {}
    with UnguardedForMeasurement(loaded.decoder) as bare:
        for batch in make_batches(loaded, asked, size=batch_size) if asked else ():
            said = answer_batch(
                loaded, bare, batch, alpha=1.0, max_new_tokens=max_new_tokens
            )
            texts = [asked[place].text for place in batch.places]
            found |= dict(zip(texts, said, strict=True))
    return {written.text: found[written.text] for written in asked}


@dataclass(frozen=True, slots=True)
class _Written:
    text: str

    def turns(self, rate: int) -> tuple[Turn, ...]:
        return (Turn(role="user", text=self.text),)


class _Run:
    def __init__(
        self,
        setup: Setup,
        arms: Sequence[Arm],
        conduct: Conduct,
        log: Log,
        progress: Advance | None,
    ) -> None:
        self.setup = setup
        self.conduct = conduct
        self.log = log
        self.total = 0
        self._arms = arms
        self._progress = progress
        self._open: dict[Arm, OpenArm] = {}

    def ask(self, items: Sequence[Item]) -> None:
        """Ask some requests in every arm, where an answer is missing."""
        if not any(self._missing(items, arm) for arm in self._arms):
            return
        loaded = self.setup.loaded
        for batch in make_batches(loaded, items, size=self.conduct.batch_size):
            asked = [items[place] for place in batch.places]
            missing = [arm for arm in self._arms if self._missing(asked, arm)]
            self._ask_batch(batch, asked, missing)

    def _ask_batch(
        self, batch: Batch, items: Sequence[Item], arms: Sequence[Arm]
    ) -> None:
        # One cache at a time: those of all batches would fill the memory.
        read: dict[str, Batch] = {}
        for arm in arms:
            self._report(arm)
            opened = self._opened(arm)
            if opened.instruction not in read:
                read[opened.instruction] = self._read(batch, opened.instruction)
            self._answer(arm, opened, read[opened.instruction], items)

    def _read(self, batch: Batch, instruction: str) -> Batch:
        loaded = self.setup.loaded
        if instruction:
            batch = with_instruction(loaded, batch, instruction)
        return prefill(loaded, batch)

    def _answer(
        self, arm: Arm, opened: OpenArm, batch: Batch, items: Sequence[Item]
    ) -> None:
        limit = self.conduct.max_new_tokens
        started = time.perf_counter()
        with opened.steerer:
            answers = answer_arm(self.setup.loaded, opened, batch, max_new_tokens=limit)
        spent = time.perf_counter() - started
        self.log.add(
            self._record(arm, item, answer, spent, len(items))
            for item, answer in zip(items, answers, strict=True)
            if not self.log.has(str(arm), item.id)
        )

    def _record(
        self, arm: Arm, item: Item, answer: Answer, seconds: float, rows: int
    ) -> AnswerRecord:
        found = self._label(item, answer)
        harmless = item.kind == "safe" or found is Label.REFUSED
        words = answer.text.split()[:_START_WORDS] if harmless else ()
        return AnswerRecord(
            arm=str(arm),
            item=item.id,
            suite=item.suite,
            variant=item.variant,
            kind=item.kind,
            cluster=item.cluster,
            topic=item.topic,
            label=found,
            on_topic=self._on_topic(item, answer, found),
            dose=answer.dose,
            score=answer.score,
            blocked=answer.blocked,
            tokens=answer.tokens,
            seconds=seconds,
            batch=rows,
            start=" ".join(words),
        )

    def _label(self, item: Item, answer: Answer) -> Label:
        if answer.blocked:
            return Label.REFUSED
        return self.conduct.judge.label(
            request=item.request, reply=answer.text, kind=item.kind
        )

    def _on_topic(self, item: Item, answer: Answer, found: Label) -> bool | None:
        if self.conduct.topic is None or found in (Label.REFUSED, Label.BROKEN):
            return None
        return self.conduct.topic.on_topic(request=item.request, reply=answer.text)

    def _opened(self, arm: Arm) -> OpenArm:
        if arm not in self._open:
            self._open[arm] = open_arm(arm, self.setup)
        return self._open[arm]

    def _missing(self, items: Sequence[Item], arm: Arm) -> bool:
        return not all(self.log.has(str(arm), item.id) for item in items)

    def _report(self, arm: Arm) -> None:
        if self._progress is not None:
            self._progress(len(self.log.records), self.total, str(arm))


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
