"""Train the reference model's difference from the public bases.

    python -m sarguard.reference.train --out runs/reference

It synthesises the sentences (an hour), aligns the text model in writing, trains
hearing, then the lookup, then reading, then answering, each for a budget of minutes,
and exports ``difference.safetensors``. If it is stopped, the same command continues
where it was. It runs on a GPU if there is one, else on the CPU, in bfloat16 where that
is faster. What it reports is also written to ``train.log``.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor
from transformers import PreTrainedModel

from sarguard.datasets import load_texts
from sarguard.datasets.speak import check_engines
from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.aligning import (
    AligningStage,
    Lesson,
    train_aligning,
    write_lessons,
)
from sarguard.reference.training.answering import (
    REFUSAL,
    AdaptedTextModel,
    Example,
    answer,
)
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.corpus import PROMPTS
from sarguard.reference.training.export import export, load_alignment, load_encoder
from sarguard.reference.training.hearing import SpeechEncoder
from sarguard.reference.training.lookup import LookupEncoder, build_lookup
from sarguard.reference.training.stage import TimeBudget, autocast, fastest_dtype
from sarguard.reference.training.train_answering import (
    AnsweringStage,
    generate_examples,
    measure_agreement,
    train_answering,
    written_down,
)
from sarguard.reference.training.train_hearing import (
    ClipStage,
    HearingStage,
    LookupStage,
    Preprocessor,
    heard,
    train_on_clips,
)
from sarguard.reference.training.workspace import Workspace, console
from sarguard.reference.training.written import load_written
from sarguard.refusal import is_refusal

PROMPTS_KEPT = 2_000
"""Of the text model's own prompts, among the harmless requests of aligning."""
EXAMPLES = 4_800
GROUPS = ("seen", "unseen")
WRITTEN = 48
"""Held-out clips of each group that the model writes down."""
_SHOWN_TOKENS = 10


def main() -> None:
    """Run every stage that is not done yet."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workspace = Workspace(options.out, device)
    check_engines()
    _render_clips(workspace)
    alignment = _align(workspace, options)
    encoder = workspace.encoder()
    if not options.start_from:
        budget = TimeBudget(options.hearing_minutes * 60)
        hearing = HearingStage(encoder, budget, options.out / "hearing.pt")
        _train_on_clips(workspace, hearing, seed=options.seed)
    model, _ = workspace.untrained
    lookup = build_lookup(model, encoder, workspace.unit_counts, space=workspace.space)
    if options.start_from:
        load_encoder(options.start_from, lookup)
    budget = TimeBudget(options.lookup_minutes * 60)
    stage = LookupStage(lookup, budget, options.out / "lookup.pt")
    _train_on_clips(workspace, stage, seed=options.seed)
    adapters = _train_answering(workspace, lookup, options)
    vocabulary = workspace.preprocessor.vocabulary
    path = export(options.out, lookup, alignment, adapters, vocabulary)
    workspace.report(f"wrote {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="training directory")
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="DIR",
        help="take over what an export heard (sarguard/reference/weights)",
    )
    parser.add_argument(
        "--alignment",
        type=Path,
        metavar="FILE",
        help="take over an alignment (.training/alignment.safetensors)",
    )
    parser.add_argument("--aligning-minutes", type=float, default=40.0)
    parser.add_argument("--hearing-minutes", type=float, default=120.0)
    parser.add_argument("--lookup-minutes", type=float, default=120.0)
    parser.add_argument("--reading-minutes", type=float, default=30.0)
    parser.add_argument("--answering-minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    return parser.parse_args()


def _render_clips(workspace: Workspace) -> None:
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

        workspace.render(report)


def _align(workspace: Workspace, options: argparse.Namespace) -> dict[str, Tensor]:
    """Align the text model in place; return what was added to it."""
    model, tokenizer = workspace.untrained
    exact = {n: p.clone() for n, p in model.model.language_model.named_parameters()}
    adapters = _add_adapters(model, seed=options.seed)
    text_model = AdaptedTextModel(model, tokenizer, adapters)

    budget = TimeBudget(options.aligning_minutes * 60)
    stage = AligningStage(text_model, adapters, budget, options.out / "aligning.pt")
    if options.alignment:
        adapters.load(load_alignment(options.alignment, model.device))
    elif not budget.is_spent():
        lessons = _lessons(workspace, text_model, seed=options.seed)
        train_aligning(
            stage,
            lessons,
            seed=options.seed + stage.step,
            evaluate=lambda: _refusals(text_model),
            report=workspace.report,
        )
    alignment = {name: value.clone() for name, value in adapters.tensors().items()}
    # Merged into the weights as they were, not as they were rounded for training.
    adapters.merge(exact)
    return alignment


def _lessons(
    workspace: Workspace,
    text_model: AdaptedTextModel,
    *,
    seed: int,
) -> list[Lesson]:
    """Return the lessons of aligning, written once and kept on disk."""
    path = workspace.directory / "aligning-lessons.pt"
    if not path.exists():
        prompts = PROMPTS.read_text("utf-8").splitlines()
        lessons = write_lessons(
            text_model,
            load_written(),
            random.Random(seed).sample(prompts, PROMPTS_KEPT),
            seed=seed,
            report=workspace.report,
        )
        torch.save([(x.prompt, x.answer, x.kind) for x in lessons], path)
    return [
        Lesson(prompt=prompt, answer=found, kind=kind)
        for prompt, found, kind in torch.load(path, weights_only=True)
    ]


@torch.no_grad()
def _refusals(text_model: AdaptedTextModel) -> str:
    """Return a line of how much is refused, in writing, of what tiers are chosen on."""
    texts: dict[str, list[str]] = defaultdict(list)
    for request in load_texts():
        if request.split.endswith("validation"):
            texts[f"{request.split} {request.kind}"].append(request.text)
    shares = []
    for name, asked in texts.items():
        prompts = [text_model.transcript_prompt(text, "") for text in asked]
        with autocast(text_model.device):
            answers = answer(
                text_model,
                prompts,
                length=_SHOWN_TOKENS,
                temperature=0.0,
                adapted=True,
            )
        rows = [list(tokens) for tokens in answers]
        said = text_model.tokenizer.batch_decode(rows, skip_special_tokens=True)
        shares.append(f"{name} {sum(map(is_refusal, said)) / len(said):.3f}")
    return f"refused: {'; '.join(shares)}"


def _train_on_clips(workspace: Workspace, stage: ClipStage, *, seed: int) -> None:
    preprocessor = workspace.preprocessor
    if stage.budget.is_spent():
        return
    train_on_clips(
        stage,
        preprocessor,
        preprocessor.sayable(workspace.training_clips()),
        seed=seed + stage.step,
        evaluate=lambda: _word_errors(workspace, stage.encoder, preprocessor),
        report=workspace.report,
    )


def _train_answering(
    workspace: Workspace, encoder: LookupEncoder, options: argparse.Namespace
) -> Adapters:
    model, tokenizer = workspace.untrained
    preprocessor = workspace.preprocessor
    adapters = _add_adapters(model, seed=options.seed + 1)
    text_model = AdaptedTextModel(model, tokenizer, adapters)
    spoken = _by_text(preprocessor.sayable(workspace.harmless_clips()))
    held_out = {g: {c.text: c for c in workspace.held_out_clips(g)} for g in GROUPS}
    examples, held_out_examples = _examples(
        workspace, text_model, spoken, held_out["seen"]
    )

    def evaluate() -> str:
        encoder.eval()
        shares = []
        for group, clips in held_out.items():
            kept = [x for x in held_out_examples if x.text in clips]
            if kept:
                share = measure_agreement(
                    encoder, text_model, preprocessor, kept, clips
                )
                shares.append(f"{group} {share:.3f}")
        told = [f"agreement {' '.join(shares)}"]
        for group in GROUPS:
            chosen = random.Random(0).sample(workspace.held_out_clips(group), WRITTEN)
            rate, texts = written_down(encoder, text_model, preprocessor, chosen)
            example = f"{chosen[0].text!r} written down as {texts[0]!r}"
            told.append(f"word error of transcripts, {group} {rate:.3f} ({example})")
        encoder.train()
        return "; ".join(told)

    # The adapters, which know nothing yet, first: they would disturb what is heard.
    for hears, name, minutes in (
        (False, "reading", options.reading_minutes),
        (True, "answering", options.answering_minutes),
    ):
        stage = AnsweringStage(
            encoder,
            text_model,
            adapters,
            preprocessor,
            TimeBudget(minutes * 60),
            options.out / f"{name}.pt",
            hears=hears,
        )
        train_answering(
            stage,
            examples,
            spoken,
            seed=options.seed + stage.step,
            evaluate=evaluate,
            report=workspace.report,
        )
    workspace.report(_word_errors(workspace, encoder, preprocessor))
    return adapters


def _add_adapters(model: PreTrainedModel, *, seed: int) -> Adapters:
    """Add adapters in float32 to the text model, itself in the fastest format."""
    torch.manual_seed(seed)
    adapters = Adapters(model.model.language_model)
    fastest = fastest_dtype(model.device)
    model.model.language_model.to(fastest)
    model.lm_head.to(fastest)
    for parameter in adapters.parameters():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return adapters


def _examples(
    workspace: Workspace,
    text_model: AdaptedTextModel,
    spoken: Mapping[str, Sequence[Clip]],
    held_out: Mapping[str, Clip],
) -> tuple[list[Example], list[Example]]:
    """Return training and held-out examples, generated once and kept on disk."""
    path = workspace.directory / "answering-examples.pt"
    if not path.exists():
        rng = random.Random(0)
        texts = rng.sample(sorted(spoken), min(EXAMPLES, len(spoken)))
        with autocast(workspace.device):
            examples = generate_examples(
                text_model, texts, seed=0, greedy=False, report=workspace.report
            )
            held_out_examples = generate_examples(
                text_model,
                sorted(held_out)[:96],
                seed=1,
                greedy=True,
                report=workspace.report,
            )
        rows = [
            [(x.text, x.instruction, x.answer) for x in part]
            for part in (examples, held_out_examples)
        ]
        torch.save(rows, path)
    examples, held_out_examples = (
        [Example(text=t, instruction=i, answer=tuple(a)) for t, i, a in part]
        for part in torch.load(path, weights_only=True)
    )
    kept = _without_refusals(text_model, examples)
    workspace.report(f"{len(kept)} of {len(examples)} answers are no refusals")
    return kept, held_out_examples


def _without_refusals(
    text_model: AdaptedTextModel, examples: Sequence[Example]
) -> list[Example]:
    """Return the examples that were answered, or told in words to refuse.

    The aligned text model refuses some of the odd sentences of the grammars. Learning
    that from speech, what is misheard would be refused as well.
    """
    rows = [list(example.answer) for example in examples]
    said = text_model.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [
        example
        for example, text in zip(examples, said, strict=True)
        if REFUSAL in example.instruction or not is_refusal(text)
    ]


def _word_errors(
    workspace: Workspace, encoder: SpeechEncoder, preprocessor: Preprocessor
) -> str:
    """Return a line of word error rates, over a hundred clips of each group."""
    encoder.eval()
    shares = []
    for group in GROUPS:
        clips = random.Random(0).sample(workspace.held_out_clips(group), 100)
        rate, texts = heard(encoder, preprocessor, clips)
        example = f"{clips[0].text!r} heard as {texts[0]!r}"
        shares.append(f"{group} {rate:.3f} ({example})")
    encoder.train()
    return f"word error {'; '.join(shares)}"


def _by_text(clips: list[Clip]) -> dict[str, list[Clip]]:
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        found[clip.text].append(clip)
    return dict(found)


if __name__ == "__main__":
    main()
