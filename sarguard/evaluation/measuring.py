"""Running every arm over the same questions and labelling what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sarguard.errors import InsufficientDataError
from sarguard.evaluation.answering import (
    Batch,
    Question,
    answer_batch,
    make_batches,
)
from sarguard.evaluation.arms import Arm, open_arm
from sarguard.evaluation.judge import Label, label
from sarguard.models.loading import LoadedModel
from sarguard.steering.vectors import RefusalVectors

MAX_NEW_TOKENS = 40
BATCH_SIZE = 16

Advance = Callable[[int, int, str], None]
"""Called with answers done, answers in all, and the arm at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmAnswers:
    """Hold how one arm answered; the answers themselves are not kept."""

    arm: Arm
    labels: tuple[Label, ...]
    """One a question, in the order of the questions."""
    seconds: float


def measure(
    loaded: LoadedModel,
    vectors: RefusalVectors,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    *,
    text: str = "",
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
    progress: Advance | None = None,
) -> list[ArmAnswers]:
    """Ask every question in every arm.

    Args:
        loaded: The model, with no steerer attached.
        vectors: What the steered arms are made of.
        questions: What is asked.
        arms: How the model is guarded, one after the other.
        text: What accompanies every clip in writing.
        max_new_tokens: Most tokens of an answer.
        batch_size: Most questions asked at once.
        progress: Called after every batch.

    Raises:
        InsufficientDataError: There is no question or no arm.
        SteeringError: An answer cannot be proven to be steered.
    """
    if not questions or not arms:
        raise InsufficientDataError(
            f"{len(questions)} question(s) in {len(arms)} arm(s): give one of each"
        )
    batches = make_batches(loaded, questions, size=batch_size, text=text)
    total = len(questions) * len(arms)
    found: list[ArmAnswers] = []
    for arm in arms:
        before = len(found) * len(questions)

        def advance(done: int, arm: Arm = arm, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total, str(arm))

        found.append(
            _ask(loaded, vectors, questions, arm, batches, max_new_tokens, advance)
        )
    return found


def _ask(
    loaded: LoadedModel,
    vectors: RefusalVectors,
    questions: Sequence[Question],
    arm: Arm,
    batches: Sequence[Batch],
    max_new_tokens: int,
    advance: Callable[[int], None],
) -> ArmAnswers:
    advance(0)
    started = time.perf_counter()
    labels: dict[int, Label] = {}
    with open_arm(arm, loaded.decoder, vectors) as steerer:
        for batch in batches:
            answers = answer_batch(
                loaded,
                steerer,
                batch,
                # The bare arm adds nothing, whatever the strength.
                alpha=arm.alpha or 1.0,
                max_new_tokens=max_new_tokens,
            )
            for place, answer in zip(batch.places, answers, strict=True):
                labels[place] = label(answer, kind=questions[place].kind)
            advance(len(labels))
    return ArmAnswers(
        arm=arm,
        labels=tuple(labels[place] for place in range(len(questions))),
        seconds=time.perf_counter() - started,
    )
