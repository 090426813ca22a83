"""Train stage 2: agreement with the text-reading model up, hearing kept."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import (
    INSTRUCTIONS,
    Lesson,
    Reader,
    agreement,
    answer,
    distance,
    divergence,
)
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.features import collate
from sarguard.reference.training.hearing import Hearing
from sarguard.reference.training.schedule import Clock, set_rates
from sarguard.reference.training.train_hearing import Ears

BATCH = 12
ANSWER_TOKENS = 24
RATES = (1e-3, 3e-4, 1.5e-4)
"""Learning rates of the adapters, the projector and CTC head, and the tower."""
STATE_WEIGHT = 1.0
HEARING_WEIGHT = 0.3


def write_lessons(
    reader: Reader,
    texts: Sequence[str],
    *,
    seed: int,
    greedy: bool,
    report: Callable[[str], None],
) -> list[Lesson]:
    """Return one lesson a text, answered by the untouched text model.

    Every other answer is sampled at temperature 0.8, unless ``greedy``.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    order = [(text, rng.choice(INSTRUCTIONS)) for text in texts]
    order.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    lessons: list[Lesson] = []
    for number, start in enumerate(range(0, len(order), 64)):
        rows = order[start : start + 64]
        prompts = [reader.transcript_prompt(*row) for row in rows]
        warmth = 0.0 if greedy or number % 2 == 0 else 0.8
        answers = answer(reader, prompts, length=ANSWER_TOKENS, temperature=warmth)
        lessons += [
            Lesson(text=text, instruction=instruction, answer=found)
            for (text, instruction), found in zip(rows, answers, strict=True)
        ]
        report(f"answers {len(lessons)}/{len(order)}")
    rng.shuffle(lessons)
    return lessons


def train_answering(
    hearing: Hearing,
    reader: Reader,
    adapters: Adapters,
    ears: Ears,
    lessons: Sequence[Lesson],
    clips: Mapping[str, Sequence[Clip]],
    *,
    clock: Clock,
    seed: int,
    checkpoint: Path,
    evaluate: Callable[[], str],
    report: Callable[[str], None],
) -> None:
    """Train adapters, projector and tower until the clock runs out."""
    rng = random.Random(seed)
    groups = [
        list(adapters.parameters()),
        [*hearing.projector.parameters(), hearing.blank, hearing.log_tau],
        [p for p in hearing.tower.parameters() if p.requires_grad],
    ]
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in groups], weight_decay=0.0
    )
    everything = [p for group in groups for p in group]
    step, smooth = 0, [0.0, 0.0, 0.0, 0.0]
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        hearing.load_state_dict(state["hearing"])
        adapters.load(state["adapters"])
        optimizer.load_state_dict(state["optimizer"])
        step, clock.spent = state["step"], state["spent"]
    saved, device = time.monotonic(), reader.device
    while not clock.over():
        batch = rng.sample(lessons, BATCH)
        spoken = [rng.choice(clips[lesson.text]) for lesson in batch]
        set_rates(optimizer, RATES, step=step, part=clock.part())
        features, lengths = collate([ears.features(clip, rng) for clip in spoken])
        with torch.autocast(device.type, torch.bfloat16):
            frames, counts = hearing.encode(features.to(device), lengths)
            heard = [row[:count] for row, count in zip(frames, counts, strict=True)]
            student = reader.listen(batch, heard)
            teacher = reader.teach(batch)
            ctc = hearing.loss(frames, counts, [ears.tokens(x.text) for x in batch])
            kl, gap = divergence(student, teacher), distance(student, teacher)
            loss = kl + STATE_WEIGHT * gap + HEARING_WEIGHT * ctc
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(everything, 1.0)
        optimizer.step()
        step += 1
        same, of = agreement(student, teacher)
        parts = [
            float(kl.detach()),
            float(gap.detach()),
            float(ctc.detach()),
            same / of,
        ]
        smooth = [0.97 * s + 0.03 * p for s, p in zip(smooth, parts, strict=True)]
        if step == 1:
            smooth = parts
        if step % 10 == 0:
            kl_, gap_, ctc_, agree = smooth
            report(
                f"step {step} {clock.seconds():.0f} s KL {kl_:.3f} states {gap_:.3f} "
                f"CTC {ctc_:.3f} agreement {agree:.3f}"
            )
        if time.monotonic() - saved > 400:
            _save(checkpoint, hearing, adapters, optimizer, step, clock)
            report(evaluate())
            saved = time.monotonic()
    _save(checkpoint, hearing, adapters, optimizer, step, clock)
    report(evaluate())


@torch.no_grad()
def agreed(
    hearing: Hearing,
    reader: Reader,
    ears: Ears,
    lessons: Sequence[Lesson],
    clips: Mapping[str, Clip],
) -> float:
    """Return the teacher-forced top-1 agreement on the lessons' clips."""
    same = total = 0
    for start in range(0, len(lessons), BATCH):
        batch = lessons[start : start + BATCH]
        features, lengths = collate([ears.features(clips[x.text], None) for x in batch])
        with torch.autocast(reader.device.type, torch.bfloat16):
            frames, counts = hearing.encode(features.to(reader.device), lengths)
            heard = [row[:count] for row, count in zip(frames, counts, strict=True)]
            found = agreement(reader.listen(batch, heard), reader.teach(batch))
        same, total = same + found[0], total + found[1]
    return same / total


def _save(
    path: Path,
    hearing: Hearing,
    adapters: Adapters,
    optimizer: torch.optim.Optimizer,
    step: int,
    clock: Clock,
) -> None:
    state = {
        "hearing": hearing.state_dict(),
        "adapters": adapters.tensors(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "spent": clock.seconds(),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
