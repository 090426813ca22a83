"""Running every arm over the same requests, and labelling what comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sarguard.errors import InsufficientDataError
from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.arms.registry import (
    OpenArm,
    Setup,
    UnguardedForMeasurement,
    check_arm,
    open_arm,
)
from sarguard.evaluation.data.items import CLEAN, Item, check_items
from sarguard.evaluation.judges.rules import Judge, Label, RuleJudge
from sarguard.evaluation.judges.topic import TopicJudge
from sarguard.evaluation.run.batch_answers import (
    Answer,
    Batch,
    Progress,
    answer_arm,
    answer_batch,
    make_batches,
    prefill,
    read_states,
    with_instruction,
)
from sarguard.evaluation.run.run_log import AnswerRecord, MemoryLog
from sarguard.models.loading import LoadedModel
from sarguard.types import Turn

MAX_NEW_TOKENS = 28
BATCH_SIZE = 32
# Requests of so many batches are sorted by length together. More would waste less
# padding, and hold more prepared audio.
_BATCHES_PLANNED = 8
_START_WORDS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How requests are answered and judged."""

    judge: Judge = field(default_factory=RuleJudge)
    topic: TopicJudge | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int = BATCH_SIZE


def run_arms(
    setup: Setup,
    items: Sequence[Item],
    arms: Sequence[Arm],
    *,
    varied: Sequence[Arm] | None = None,
    run_options: RunOptions | None = None,
    log: MemoryLog | None = None,
    states: dict[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> tuple[AnswerRecord, ...]:
    """Ask every request in every arm, and return all records of the log.

    Answers that the log has already are not asked for again. Batches are the same
    whatever is left, so a run that was stopped ends as one that was not.

    Args:
        setup: The model, with no steerer attached, and what arms are made of.
        items: What is asked.
        arms: How the model is guarded.
        varied: Which of the arms are asked the variants of requests; all if not given.
        run_options: How it is asked and judged.
        log: Where records go; in memory if not given.
        states: Where the clean last-token state of every request goes that is asked,
            (L, D) by its identifier.
        progress: Called before every batch of every arm, and at the end.

    Raises:
        InsufficientDataError: There is no request or no arm.
        ConfigurationError: Two requests share an identifier, or an arm is unknown.
        SteeringError: An answer cannot be proven to be steered.
        JudgeError: The judge gave no label.
    """
    if not items or not arms:
        raise InsufficientDataError(
            f"{len(items)} request(s) in {len(arms)} arm(s): give one of each"
        )
    check_items(items)
    for arm in arms:
        check_arm(arm)
    plan = (
        ([item for item in items if item.variant == CLEAN], arms),
        (
            [item for item in items if item.variant != CLEAN],
            arms if varied is None else varied,
        ),
    )
    run = _Run(
        setup=setup,
        options=run_options or RunOptions(),
        log=MemoryLog() if log is None else log,
        progress=progress,
        states=states,
        total=sum(len(asked) * len(among) for asked, among in plan),
    )
    for asked, among in plan:
        for chunk in _chunks(asked, run.options.batch_size * _BATCHES_PLANNED):
            run.ask(chunk, among)
    if progress is not None:
        progress(run.total, run.total, "")
    return run.log.records


def answer_as_text(
    loaded: LoadedModel,
    items: Sequence[Item],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
) -> dict[str, str]:
    """Return the bare model's answer to every request whose text is known."""
    requests = [_TextRequest(text) for text in dict.fromkeys(i.request for i in items)]
    asked = [written for written in requests if written.text]
    found: dict[str, str] = {}
    with UnguardedForMeasurement(loaded.decoder) as bare:
        for batch in make_batches(loaded, asked, size=batch_size) if asked else ():
            # A dose has to be above 0; this steerer adds none of it.
            said = answer_batch(
                loaded, bare, batch, alpha=1.0, max_new_tokens=max_new_tokens
            )
            texts = [asked[place].text for place in batch.places]
            found |= dict(zip(texts, said, strict=True))
    return {written.text: found[written.text] for written in asked}


@dataclass(frozen=True, slots=True)
class _TextRequest:
    text: str

    def turns(self, rate: int) -> tuple[Turn, ...]:
        return (Turn(role="user", text=self.text),)


@dataclass(slots=True, kw_only=True)
class _Run:
    setup: Setup
    options: RunOptions
    log: MemoryLog
    progress: Progress | None
    states: dict[str, Tensor] | None
    total: int
    opened: dict[Arm, OpenArm] = field(default_factory=dict)

    def ask(self, items: Sequence[Item], arms: Sequence[Arm]) -> None:
        """Ask some requests in some arms, where an answer is missing."""
        if not any(self._missing(items, arm) for arm in arms):
            return
        loaded = self.setup.loaded
        for batch in make_batches(loaded, items, size=self.options.batch_size):
            asked = [items[place] for place in batch.places]
            missing = [arm for arm in arms if self._missing(asked, arm)]
            if missing:
                self._ask_batch(batch, asked, missing)

    def _ask_batch(
        self, batch: Batch, items: Sequence[Item], arms: Sequence[Arm]
    ) -> None:
        # One cache at a time: those of all batches would fill the memory.
        plain = prefill(self.setup.loaded, batch)
        read = {"": plain}
        scores = self._scores(plain, items)
        for arm in arms:
            self._report(arm)
            opened = self._opened(arm)
            said = opened.instruction
            if said not in read:
                instructed = with_instruction(self.setup.loaded, batch, said)
                read[said] = prefill(self.setup.loaded, instructed, like=plain)
            # The scores are of the request alone, not of one with an instruction.
            self._answer(arm, opened, read[said], items, [] if said else scores)

    def _scores(self, batch: Batch, items: Sequence[Item]) -> list[float]:
        """Return what the gate gives each row, whatever the arm makes of it."""
        states = read_states(self.setup.loaded, batch)
        if self.states is not None:
            names = [item.id for item in items]
            self.states |= dict(zip(names, states.unbind(dim=1), strict=True))
        found: list[float] = self.setup.bundle.gate.score(states).tolist()
        return found

    def _answer(
        self,
        arm: Arm,
        opened: OpenArm,
        batch: Batch,
        items: Sequence[Item],
        scores: Sequence[float],
    ) -> None:
        limit = self.options.max_new_tokens
        started = time.perf_counter()
        with opened.steerer:
            answers = answer_arm(self.setup.loaded, opened, batch, max_new_tokens=limit)
        spent = time.perf_counter() - started
        given: Sequence[float | None] = scores or [None] * len(items)
        self.log.add(
            self._record(arm, item, answer, spent, len(items), score)
            for item, answer, score in zip(items, answers, given, strict=True)
            # A batch is answered whole where any of it is missing: batches stay the
            # same.
            if not self.log.has(arm, item.id)
        )

    def _record(
        self,
        arm: Arm,
        item: Item,
        answer: Answer,
        seconds: float,
        rows: int,
        score: float | None,
    ) -> AnswerRecord:
        found = self._label(item, answer)
        harmless = item.kind == "safe" or found is Label.REFUSED
        words = answer.text.split()[:_START_WORDS] if harmless else ()
        return AnswerRecord(
            arm=arm,
            item=item.id,
            suite=item.suite,
            variant=item.variant,
            kind=item.kind,
            cluster=item.cluster,
            topic=item.topic,
            label=found,
            on_topic=self._on_topic(item, answer, found),
            dose=answer.dose,
            score=score,
            blocked=answer.blocked,
            tokens=answer.tokens,
            seconds=seconds,
            batch=rows,
            start=" ".join(words),
        )

    def _label(self, item: Item, answer: Answer) -> Label:
        if answer.blocked:
            return Label.REFUSED
        return self.options.judge.label(
            request=item.request, reply=answer.text, kind=item.kind
        )

    def _on_topic(self, item: Item, answer: Answer, found: Label) -> bool | None:
        if self.options.topic is None or found in (Label.REFUSED, Label.BROKEN):
            return None
        return self.options.topic.on_topic(request=item.request, reply=answer.text)

    def _opened(self, arm: Arm) -> OpenArm:
        if arm not in self.opened:
            self.opened[arm] = open_arm(arm, self.setup)
        return self.opened[arm]

    def _missing(self, items: Sequence[Item], arm: Arm) -> bool:
        return not all(self.log.has(arm, item.id) for item in items)

    def _report(self, arm: Arm) -> None:
        if self.progress is not None:
            self.progress(len(self.log.records), self.total, str(arm))


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
