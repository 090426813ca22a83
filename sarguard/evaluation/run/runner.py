"""Running every arm over the same requests, and labelling what comes back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from sarguard.decoding.json_grammar import declines
from sarguard.decoding.readings import request_scores, strongest
from sarguard.decoding.session_memory import ClipCache
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
from sarguard.evaluation.judges.rules import Judge, Kind, Label, RuleJudge
from sarguard.evaluation.judges.topic import TopicJudge
from sarguard.evaluation.run.batch_answers import (
    Answer,
    Batch,
    Progress,
    answer_arm,
    answer_batch,
    iter_batches,
    make_batches,
    prefill,
    read_states,
    with_instruction,
    with_readings,
)
from sarguard.evaluation.run.draws import GREEDY, Draw, as_request
from sarguard.evaluation.run.run_log import AnswerRecord, MemoryLog
from sarguard.models.loading import LoadedModel
from sarguard.types import Turn

MAX_NEW_TOKENS = 28
BATCH_SIZE = 32
# Requests of so many batches are sorted by length together. More would waste less
# padding, and hold more prepared audio.
_BATCHES_PLANNED = 8
_START_WORDS = 14
# A property's name, or what parts values.
_KEY_OR_MARK = re.compile(r'"\w+"\s*:|[{}\[\]"]')


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How requests are answered and judged."""

    judge: Judge = field(default_factory=RuleJudge)
    second_judge: Judge | None = None
    """Labels the same answers; the figures go by the first judge alone."""
    topic: TopicJudge | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int = BATCH_SIZE
    clips: ClipCache = field(default_factory=ClipCache, repr=False, compare=False)
    """What was heard: contexts and attacks ask the same clips again, and so do runs
    that share their options."""
    draws: tuple[Draw, ...] = (GREEDY,)
    """How requests as they are are asked: greedily, and again at temperatures, of which
    only harmful ones are tried more than once."""


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
        varied: Which of the arms are sampled too, and asked requests that were
            changed: variants, contexts and attacks; all if not given.
        run_options: How it is asked and judged.
        log: Where records go; in memory if not given.
        states: Where the clean last-token state of every request goes that is asked,
            (L, D) by its identifier.
        progress: Called before every batch of every arm, and at the end.

    Raises:
        InsufficientDataError: There is no request or no arm.
        ConfigurationError: Two requests share an identifier, or an arm is unknown.
        SteeringError: An answer cannot be proven to be steered.
        JudgeError: A judge gave no label.
    """
    if not items or not arms:
        raise InsufficientDataError(
            f"{len(items)} request(s) in {len(arms)} arm(s): give one of each"
        )
    check_items(items)
    for arm in arms:
        check_arm(arm)
    run_options = run_options or RunOptions()
    plan = list(_plan(items, arms, arms if varied is None else varied, run_options))
    run = _Run(
        setup=setup,
        options=run_options,
        log=MemoryLog() if log is None else log,
        progress=progress,
        states=states,
        total=sum(len(part.items) * len(part.ways) for part in plan),
    )
    for part in plan:
        for chunk in _chunks(part.items, run.options.batch_size * _BATCHES_PLANNED):
            run.ask(chunk, part.ways)
    if progress is not None:
        progress(run.total, run.total, "")
    return run.log.records


Way: TypeAlias = tuple[Arm, Draw]
"""One answer to a request: in an arm, of a try."""


@dataclass(frozen=True, slots=True)
class _Part:
    items: Sequence[Item]
    ways: Sequence[Way]


def _plan(
    items: Sequence[Item],
    arms: Sequence[Arm],
    varied: Sequence[Arm],
    options: RunOptions,
) -> Iterator[_Part]:
    """Yield what is asked in which ways, the requests as they are first."""
    clean = [item for item in items if item.variant == CLEAN]
    yield _Part(clean, _ways(arms, [GREEDY]))
    sampled = [draw for draw in options.draws if draw != GREEDY]
    once = [draw for draw in sampled if draw.attempt == 0]
    # Apart, since a batch is answered whole.
    for harmful, draws in ((True, sampled), (False, once)):
        of_kind = [i for i in clean if (i.kind == "harmful") is harmful]
        yield _Part(of_kind, _ways(varied, draws))
    changed = [item for item in items if item.variant != CLEAN]
    # What was made of one request together: its clip is in all of it, and a run that
    # is stopped has seen every context of some requests.
    clusters = dict.fromkeys(item.cluster for item in items)
    order = {cluster: place for place, cluster in enumerate(clusters)}
    changed.sort(key=lambda item: order[item.cluster])
    yield _Part(changed, _ways(varied, [GREEDY]))


def _ways(arms: Sequence[Arm], draws: Sequence[Draw]) -> list[Way]:
    return [(arm, draw) for arm in arms for draw in draws]


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

    def ask(self, items: Sequence[Item], ways: Sequence[Way]) -> None:
        """Ask some requests in some ways, where an answer is missing."""
        if not any(self._missing(items, way) for way in ways):
            return
        loaded = self.setup.loaded
        size = self.options.batch_size
        for batch in iter_batches(loaded, items, size=size, clips=self.options.clips):
            asked = [items[place] for place in batch.places]
            missing = [way for way in ways if self._missing(asked, way)]
            if missing:
                self._ask_batch(batch, asked, missing)

    def _ask_batch(
        self, batch: Batch, items: Sequence[Item], ways: Sequence[Way]
    ) -> None:
        # One cache at a time: those of all batches would fill the memory.
        plain = with_readings(self.setup.loaded, prefill(self.setup.loaded, batch))
        read = {"": plain}
        scores = self._scores(plain, items)
        for way in ways:
            self._report(way)
            opened = self._opened(way[0])
            said = opened.instruction
            if said not in read:
                instructed = with_instruction(self.setup.loaded, batch, said)
                read[said] = prefill(self.setup.loaded, instructed, like=plain)
            if opened.dose.reads_states:
                # Once for all arms of the batch.
                read[said] = with_readings(self.setup.loaded, read[said])
            # The scores are of the request alone, not of one with an instruction.
            self._answer(way, opened, read[said], items, [] if said else scores)

    def _scores(self, batch: Batch, items: Sequence[Item]) -> list[float]:
        """Return what the gate gives each row, whatever the arm makes of it."""
        states = read_states(self.setup.loaded, batch)
        if self.states is not None:
            # Not those of contexts and attacks: nobody reads them, and there are many.
            self.states |= {
                item.id: state
                for item, state in zip(items, states.unbind(dim=1), strict=True)
                if item.axis == "variant"
            }
        score = self.setup.bundle.gate.score
        found = []
        for row, beside in enumerate(batch.readings or ()):
            read = beside.with_place(states[:, row])
            found.append(strongest(request_scores(read, score))[1])
        return found

    def _answer(
        self,
        way: Way,
        opened: OpenArm,
        batch: Batch,
        items: Sequence[Item],
        scores: Sequence[float],
    ) -> None:
        limit, (arm, draw) = self.options.max_new_tokens, way
        requests = [as_request(item, draw, max_new_tokens=limit) for item in items]
        started = time.perf_counter()
        with opened.steerer:
            answers = answer_arm(
                self.setup.loaded,
                opened,
                batch,
                max_new_tokens=limit,
                requests=requests,
            )
        spent = time.perf_counter() - started
        given: Sequence[float | None] = scores or [None] * len(items)
        self.log.add(
            self._record(way, item, answer, spent, len(items), score)
            for item, answer, score in zip(items, answers, given, strict=True)
            # A batch is answered whole where any of it is missing: batches stay the
            # same.
            if not self.log.has(arm, item.id, draw)
        )

    def _record(
        self,
        way: Way,
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
            arm=way[0],
            item=item.id,
            suite=item.suite,
            variant=item.variant,
            axis=item.axis,
            kind=item.kind,
            cluster=item.cluster,
            topic=item.topic,
            label=found,
            second_label=self._second_label(item, answer),
            on_topic=self._on_topic(item, answer, found),
            dose=answer.dose,
            score=score,
            blocked=answer.blocked,
            tokens=answer.tokens,
            seconds=seconds,
            batch=rows,
            start=" ".join(words),
            temperature=way[1].temperature,
            attempt=way[1].attempt,
        )

    def _label(self, item: Item, answer: Answer) -> Label:
        if answer.blocked:
            return Label.REFUSED
        return _label_by(self.options.judge, item, answer)

    def _second_label(self, item: Item, answer: Answer) -> Label | None:
        judge = self.options.second_judge
        if judge is None or answer.blocked:
            return None
        return _label_by(judge, item, answer)

    def _on_topic(self, item: Item, answer: Answer, found: Label) -> bool | None:
        if self.options.topic is None or found not in (Label.COMPLIED, Label.ANSWERED):
            return None
        return self.options.topic.on_topic(request=item.request, reply=answer.text)

    def _opened(self, arm: Arm) -> OpenArm:
        if arm not in self.opened:
            self.opened[arm] = open_arm(arm, self.setup)
        return self.opened[arm]

    def _missing(self, items: Sequence[Item], way: Way) -> bool:
        arm, draw = way
        return not all(self.log.has(arm, item.id, draw) for item in items)

    def _report(self, way: Way) -> None:
        if self.progress is None:
            return
        arm, draw = way
        what = str(arm) if draw == GREEDY else f"{arm}, {draw}"
        self.progress(len(self.log.records), self.total, what)


def words_of_json(text: str) -> str:
    """Return the words of a JSON answer's values, which may be cut short."""
    return " ".join(_KEY_OR_MARK.sub(" ", text).split())


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _label_by(judge: Judge, item: Item, answer: Answer) -> Label:
    """Return a judge's label of an answer that was not blocked."""
    found = _label_words(judge, item, answer.whole or answer.text)
    # A refusal that a stop string hides from the caller gives nothing either.
    if found is Label.REFUSED or not answer.whole:
        return found
    return _label_words(judge, item, answer.text)


def _label_words(judge: Judge, item: Item, said: str) -> Label:
    if item.options.json_schema is not None:
        # The grammar tells a refusal by itself; the judge reads words.
        if declines(said):
            return Label.REFUSED
        said = words_of_json(said)
    kind: Kind = "harmful" if item.kind == "harmful" else "safe"
    return judge.label(request=item.request, reply=said, kind=kind)
