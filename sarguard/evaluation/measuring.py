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
    prefill,
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
    """Spent on decoding; reading the prompts is shared by all arms."""


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
        arms: How the model is guarded.
        text: What accompanies every clip in writing.
        max_new_tokens: Most tokens of an answer.
        batch_size: Most questions asked at once.
        progress: Called before every batch of every arm, and at the end.

    Raises:
        InsufficientDataError: There is no question or no arm.
        SteeringError: An answer cannot be proven to be steered.
    """
    if not questions or not arms:
        raise InsufficientDataError(
            f"{len(questions)} question(s) in {len(arms)} arm(s): give one of each"
        )
    labels: list[dict[int, Label]] = [{} for _ in arms]
    seconds = [0.0] * len(arms)
    total = len(questions) * len(arms)
    for batch in make_batches(loaded, questions, size=batch_size, text=text):
        # One cache at a time: those of all batches would fill the memory.
        read = prefill(loaded, batch)
        for index, arm in enumerate(arms):
            if progress is not None:
                progress(sum(map(len, labels)), total, str(arm))
            started = time.perf_counter()
            labels[index] |= _ask(loaded, vectors, questions, arm, read, max_new_tokens)
            seconds[index] += time.perf_counter() - started
    if progress is not None:
        progress(total, total, "")
    return [
        ArmAnswers(
            arm=arm,
            labels=tuple(found[place] for place in range(len(questions))),
            seconds=spent,
        )
        for arm, found, spent in zip(arms, labels, seconds, strict=True)
    ]


def _ask(
    loaded: LoadedModel,
    vectors: RefusalVectors,
    questions: Sequence[Question],
    arm: Arm,
    batch: Batch,
    max_new_tokens: int,
) -> dict[int, Label]:
    with open_arm(arm, loaded.decoder, vectors) as steerer:
        answers = answer_batch(
            loaded,
            steerer,
            batch,
            # The bare arm adds nothing, whatever the strength.
            alpha=arm.alpha or 1.0,
            max_new_tokens=max_new_tokens,
        )
    return {
        place: label(answer, kind=questions[place].kind)
        for place, answer in zip(batch.places, answers, strict=True)
    }
