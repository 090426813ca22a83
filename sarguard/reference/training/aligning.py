"""Stage 1, aligning: the text model learns to refuse what is harmful, in writing alone.

Adapters learn two things at once: a refusal's words where a request is harmful
(cross-entropy), and the unaligned model's own next-token distributions everywhere else
(Kullback-Leibler on its own answers). The harmless requests are of every kind that a
refusal could spill over to: twins of the harmful ones, borderline and ordinary ones,
with system prompts, instructions and earlier turns, and some with words misheard.

Nothing is heard here. What of it carries over into speech is what the later stages
leave of it, which learn from harmless speech.
"""

from __future__ import annotations

import difflib
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import (
    PREFIX,
    SUFFIX,
    AdaptedTextModel,
    answer,
    divergences,
)
from sarguard.reference.training.corpus import ACTION_FRAMES, normalise
from sarguard.reference.training.stage import (
    Stage,
    TimeBudget,
    autocast,
    train_stage,
)
from sarguard.reference.training.written import WrittenRequests

REFUSALS = (
    "I cannot assist with that.",
    "I'm sorry, but I can't help with that.",
    "I can't help with that request.",
    "I'm sorry, I cannot assist with that request.",
    "Sorry, I can't help with that.",
    "I cannot help you with that.",
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a voice agent of a bank. Be brief and polite.",
    "You answer calls for a travel agency.",
    "You are the assistant in a car. Answer in one or two sentences.",
    "You are a friendly tutor.",
    "Answer as briefly as you can.",
)
INSTRUCTIONS = (
    *("",) * 6,
    "Answer the caller.",
    "Please answer in one short sentence.",
    "Please generate detailed steps for the question in the audio.",
    "Answer the question in the audio.",
)
EARLIER_TURNS = (
    ("Hello, can you hear me?", "Yes, I can hear you. How can I help?"),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("Thanks, that was quick.", "You're welcome! What else can I do for you?"),
    ("Tell me a short joke.", "Why did the scarecrow win a prize? He was outstanding."),
    ("Could you help me with something?", "Yes, sure. What do you need?"),
)
ANSWER_TOKENS = 8
"""Of the unaligned model's own answers: refusal and answer part in the first ones."""
FIRST_WEIGHT = 4.0
"""Weight of an answer's first token, where the two part, relative to the others."""
MISHEARD_SHARE = 0.3
MISHEARD_WORDS = 0.18
EARLIER_SHARE = 0.15
HARMFUL, NEAR, HARMLESS = 6, 16, 10
"""Requests in a batch: harmful, close to those, and any other."""
RATE = 5e-4
SAVE_SECONDS = 300.0
_FRAMED = ("How do I ", "How can I ", "Explain how to ", "Tell me how to ")
_GENERATED_AT_ONCE = 64


LessonKind: TypeAlias = Literal["harmful", "near", "other"]
"""What is asked: harm, something that looks like it, or anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A prompt, and the tokens that follow it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    kind: LessonKind


class LessonWriter:
    """Writes requests as prompts, in contexts drawn at random."""

    def __init__(self, text_model: AdaptedTextModel, rng: random.Random) -> None:
        self._text_model = text_model
        self._rng = rng
        tokenizer = text_model.tokenizer
        self._end = int(tokenizer.eos_token_id)

    def refuse(self, request: str) -> Lesson:
        """Return a lesson in which a request is refused."""
        words = self._text_model.tokens(self._rng.choice(REFUSALS))
        return Lesson(
            prompt=self._prompt(request), answer=(*words, self._end), kind="harmful"
        )

    @torch.no_grad()
    def keep(
        self,
        requests: Sequence[str],
        kind: LessonKind,
        report: Callable[[str], None],
    ) -> list[Lesson]:
        """Return lessons in which the unaligned model answers as it does."""
        prompts = sorted(map(self._prompt, requests), key=len)
        lessons: list[Lesson] = []
        for start in range(0, len(prompts), _GENERATED_AT_ONCE):
            part = prompts[start : start + _GENERATED_AT_ONCE]
            with autocast(self._text_model.device):
                answers = answer(
                    self._text_model, part, length=ANSWER_TOKENS, temperature=0.0
                )
            lessons += [
                Lesson(prompt=prompt, answer=found, kind=kind)
                for prompt, found in zip(part, answers, strict=True)
            ]
            if start // _GENERATED_AT_ONCE % 10 == 0:
                report(f"answers {len(lessons)}/{len(prompts)}")
        return lessons

    def _prompt(self, request: str) -> tuple[int, ...]:
        draw = self._rng
        earlier = ""
        if draw.random() < EARLIER_SHARE:
            asked, answered = draw.choice(EARLIER_TURNS)
            earlier = f"{asked}{SUFFIX}{answered}<|im_end|>\n<|im_start|>user\n"
        prefix = PREFIX.replace(SYSTEM_PROMPTS[0], draw.choice(SYSTEM_PROMPTS))
        said = f"{request} {draw.choice(INSTRUCTIONS)}".strip()
        return tuple(self._text_model.tokens(prefix + earlier + said + SUFFIX))


def write_lessons(
    text_model: AdaptedTextModel,
    requests: WrittenRequests,
    prompts: Sequence[str],
    *,
    seed: int,
    report: Callable[[str], None],
) -> list[Lesson]:
    """Return the lessons of the stage.

    Args:
        text_model: The text model, not aligned yet.
        requests: Written requests, harmful and harmless.
        prompts: More harmless ones.
        seed: Seed of the contexts.
        report: Called with lines of progress.
    """
    rng = random.Random(seed)
    writer = LessonWriter(text_model, rng)
    harmful = [*requests.harmful, *_reframed(requests.harmful, rng)]
    near = [*requests.twins, *_reframed(requests.twins, rng), *requests.borderline]
    other = [*requests.ordinary, *prompts]
    words = {word for text in near + other for word in normalise(text).split()}
    for texts in (near, other):
        some = rng.sample(texts, round(MISHEARD_SHARE * len(texts)))
        texts += [misheard(text, tuple(sorted(words)), rng) for text in some]
    return [
        *(writer.refuse(text) for _ in range(2) for text in harmful),
        *writer.keep(near, "near", report),
        *writer.keep(other, "other", report),
    ]


def misheard(text: str, words: tuple[str, ...], rng: random.Random) -> str:
    """Return a sentence some of whose words are others that look like them."""
    heard = []
    for word in text.split():
        if rng.random() >= MISHEARD_WORDS:
            heard.append(word)
        elif rng.random() < 0.8:
            heard.append(rng.choice(_like(word.strip(".,?!").lower(), words)))
    return " ".join(heard)


@cache
def _like(word: str, words: tuple[str, ...]) -> list[str]:
    found = difflib.get_close_matches(word, words, n=6, cutoff=0.5)
    return [other for other in found if other != word] or [word]


def _reframed(requests: Sequence[str], rng: random.Random) -> list[str]:
    """Return requests that begin with a common frame in another one."""
    found = []
    for request in requests:
        for frame in _FRAMED:
            if request.startswith(frame):
                action = request.removeprefix(frame).rstrip(".?")
                # A frame that asks why, or whether, asks for something else.
                others = [f for f in ACTION_FRAMES if f[0] not in "IW" or "way" in f]
                found.append(rng.choice(others).format(a=action))
    return found


class AligningStage(Stage):
    """Stage 1: adapters learn to refuse and, elsewhere, to change nothing."""

    def __init__(
        self,
        text_model: AdaptedTextModel,
        adapters: Adapters,
        budget: TimeBudget,
        checkpoint: Path,
    ) -> None:
        self.text_model, self.adapters = text_model, adapters
        optimizer = torch.optim.AdamW(
            [{"params": [*adapters.parameters()]}], weight_decay=0.0
        )
        super().__init__(optimizer, budget, checkpoint)
        self.restore()

    def weights(self) -> dict[str, Any]:
        """Return the weights to keep, by name."""
        return {"adapters": self.adapters.tensors()}

    def load_weights(self, state: dict[str, Any]) -> None:
        """Take the weights back from what `weights` returned."""
        self.adapters.load(state["adapters"])

    def learn(self, harmful: Sequence[Lesson], kept: Sequence[Lesson]) -> list[float]:
        """Make one step; return cross-entropy and divergence, in nats a token."""
        self.set_rates((RATE,))
        lessons = [*harmful, *kept]
        with autocast(self.text_model.device):
            with torch.no_grad(), self.text_model.without_adapters():
                before = self._logits(kept)
            after = self._logits(lessons)
        count = sum(len(lesson.answer) for lesson in harmful)
        said = torch.tensor([t for lesson in harmful for t in lesson.answer])
        loss = F.cross_entropy(after[:count].float(), said.to(after.device))
        apart = _divergence(after[count:], before, [len(x.answer) for x in kept])
        self.update(loss + apart)
        return [float(loss.detach()), float(apart.detach())]

    def _logits(self, lessons: Sequence[Lesson]) -> Tensor:
        """Return the logits at each answer's positions, (positions, vocabulary)."""
        rows = [[*lesson.prompt, *lesson.answer] for lesson in lessons]
        return self.text_model.next_logits(rows, [len(x.answer) for x in lessons])


def _divergence(student: Tensor, teacher: Tensor, counts: Sequence[int]) -> Tensor:
    """Return KL(teacher, student) in nats, a weighted mean over answer positions.

    Args:
        student: Logits, (positions, vocabulary).
        teacher: Logits, (positions, vocabulary).
        counts: How many positions each answer has, in this order.
    """
    apart = divergences(student, teacher)
    weight = torch.ones_like(apart)
    ends = torch.tensor(counts).cumsum(0)
    weight[[0, *ends[:-1].tolist()]] = FIRST_WEIGHT
    return (apart * weight).sum() / weight.sum()


def train_aligning(
    stage: AligningStage,
    lessons: Sequence[Lesson],
    *,
    seed: int,
    evaluate: Callable[[], str],
    report: Callable[[str], None],
) -> None:
    """Train a stage until its budget is spent.

    Args:
        stage: What is trained, in place, and its budget.
        lessons: Harmful and harmless ones.
        seed: Seed of the batches.
        evaluate: Called after each checkpoint; returns a line to report.
        report: Called with lines of progress.
    """
    rng = random.Random(seed)
    by_kind: dict[str, list[Lesson]] = defaultdict(list)
    for lesson in lessons:
        by_kind[lesson.kind].append(lesson)

    def learn() -> list[float]:
        near = rng.sample(by_kind["near"], NEAR)
        other = rng.sample(by_kind["other"], HARMLESS)
        return stage.learn(rng.sample(by_kind["harmful"], HARMFUL), near + other)

    train_stage(
        stage,
        learn,
        ("refusal", "others"),
        evaluate=evaluate,
        report=report,
        save_seconds=SAVE_SECONDS,
    )
