"""Train the reference model's difference from the public bases.

    python -m sarguard.reference.train --out runs/reference

Speaks the sentences (minutes), trains hearing, then the lookup, then answering, each
for a budget of minutes, and exports ``difference.safetensors``. Stopped at any point,
the same command goes on where it was. Runs on a GPU if there is one, else on the
CPU's cores, in bfloat16 where that is faster.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from transformers import PreTrainedModel

from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import Lesson, Reader
from sarguard.reference.training.clips import Clip, require_synthesisers
from sarguard.reference.training.export import (
    export,
    start_answering,
    start_hearing,
)
from sarguard.reference.training.hearing import Hearing
from sarguard.reference.training.lookup import Lookup, build_lookup
from sarguard.reference.training.stage import Clock, autocast, fastest_dtype
from sarguard.reference.training.train_answering import (
    agreed,
    train_answering,
    write_lessons,
)
from sarguard.reference.training.train_hearing import (
    ClipStage,
    Ears,
    HearingStage,
    LookupStage,
    heard,
    train_on_clips,
)
from sarguard.reference.training.workspace import School

LESSONS = 1_920
GROUPS = ("seen", "unseen")

console = Console(stderr=True)


def main() -> None:
    """Run every stage that is not done yet."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    school = School(options.out, device)
    require_synthesisers()
    _speak(school)
    hearing = school.hearing()
    if not options.start_from:
        _hear(school, hearing, options)
    model, _ = school.untrained
    lookup = build_lookup(model, hearing, school.looked_up, space=school.space)
    if options.start_from:
        start_hearing(options.start_from, lookup)
    ears = replace(school.ears, vocabulary=tuple(school.looked_up))
    _look_up(school, lookup, ears, options)
    adapters = _answer(school, lookup, ears, options)
    path = export(options.out, lookup, adapters, ears.vocabulary)
    console.log(f"wrote {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="training directory")
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="DIR",
        help="go on from an export (sarguard/reference/weights), after its hearing",
    )
    parser.add_argument("--hearing-minutes", type=float, default=60.0)
    parser.add_argument("--lookup-minutes", type=float, default=14.0)
    parser.add_argument("--answering-minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    return parser.parse_args()


def _speak(school: School) -> None:
    columns = (
        TextColumn("speaking {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        school.render(report)


def _hear(school: School, hearing: Hearing, options: argparse.Namespace) -> None:
    clock = Clock(options.hearing_minutes * 60)
    stage = HearingStage(hearing, clock, options.out / "hearing.pt")
    _train(school, stage, school.ears, seed=options.seed)


def _look_up(
    school: School, lookup: Lookup, ears: Ears, options: argparse.Namespace
) -> None:
    clock = Clock(options.lookup_minutes * 60)
    stage = LookupStage(lookup, clock, options.out / "lookup.pt")
    _train(school, stage, ears, seed=options.seed)


def _train(school: School, stage: ClipStage, ears: Ears, *, seed: int) -> None:
    train_on_clips(
        stage,
        ears,
        ears.sayable(school.training_clips(drilled=True)),
        seed=seed,
        evaluate=lambda: _word_errors(school, stage.hearing, ears),
        report=console.log,
    )


def _answer(
    school: School, hearing: Lookup, ears: Ears, options: argparse.Namespace
) -> Adapters:
    model, tokenizer = school.untrained
    adapters = _adapt(model)
    if options.start_from:
        start_answering(options.start_from, adapters)
    reader = Reader(model, tokenizer, adapters)
    spoken = _by_text(ears.sayable(school.training_clips(drilled=False)))
    held_out = {g: {c.text: c for c in school.held_out_clips(g)} for g in GROUPS}
    lessons, exam = _lessons(school, reader, spoken, held_out["seen"])

    def evaluate() -> str:
        shares = [
            f"{group} {agreed(hearing, reader, ears, kept, clips):.3f}"
            for group, clips in held_out.items()
            if (kept := [x for x in exam if x.text in clips])
        ]
        return f"agreement {' '.join(shares)}; {_word_errors(school, hearing, ears)}"

    train_answering(
        hearing,
        reader,
        adapters,
        ears,
        lessons,
        spoken,
        clock=Clock(options.answering_minutes * 60),
        seed=options.seed,
        checkpoint=options.out / "answering.pt",
        evaluate=evaluate,
        report=console.log,
    )
    return adapters


def _adapt(model: PreTrainedModel) -> Adapters:
    """Give the text model adapters: itself in the fastest format, they in float32."""
    adapters = Adapters(model.model.language_model)
    fastest = fastest_dtype(model.device)
    model.model.language_model.to(fastest)
    model.lm_head.to(fastest)
    for parameter in adapters.parameters():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return adapters


def _lessons(
    school: School,
    reader: Reader,
    spoken: dict[str, list[Clip]],
    held_out: dict[str, Clip],
) -> tuple[list[Lesson], list[Lesson]]:
    """Return the training lessons and the held-out exam, written once to disk."""
    path = school.directory / "lessons.pt"
    if not path.exists():
        rng = random.Random(0)
        texts = rng.sample(sorted(spoken), min(LESSONS, len(spoken)))
        with autocast(school.device):
            lessons = write_lessons(
                reader, texts, seed=0, greedy=False, report=console.log
            )
            exam = write_lessons(
                reader, sorted(held_out)[:96], seed=1, greedy=True, report=console.log
            )
        rows = [
            [(x.text, x.instruction, x.answer) for x in part]
            for part in (lessons, exam)
        ]
        torch.save(rows, path)
    lessons, exam = (
        [Lesson(text=t, instruction=i, answer=tuple(a)) for t, i, a in part]
        for part in torch.load(path, weights_only=True)
    )
    return lessons, exam


def _word_errors(school: School, hearing: Hearing, ears: Ears) -> str:
    """Return a line of word error rates, over a hundred clips of each group."""
    hearing.eval()
    shares = []
    for group in GROUPS:
        clips = random.Random(0).sample(school.held_out_clips(group), 100)
        rate, texts = heard(hearing, ears, clips)
        example = f"{clips[0].text!r} heard as {texts[0]!r}"
        shares.append(f"{group} {rate:.3f} ({example})")
    hearing.train()
    return f"word error {'; '.join(shares)}"


def _by_text(clips: list[Clip]) -> dict[str, list[Clip]]:
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        found[clip.text].append(clip)
    return dict(found)


if __name__ == "__main__":
    main()
