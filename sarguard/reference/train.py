"""Train the reference model's difference from the public bases.

    python -m sarguard.reference.train --out runs/reference

It synthesises the sentences (minutes), trains hearing, then the lookup, then answering,
each for a budget of minutes, and exports ``difference.safetensors``. If it is stopped,
the same command continues where it was. It runs on a GPU if there is one, else on the
CPU, in bfloat16 where that is faster.
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

from sarguard.datasets.speak import check_engines
from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import AdaptedTextModel, Example
from sarguard.reference.training.clips import Clip
from sarguard.reference.training.export import (
    export,
    load_adapters,
    load_encoder,
)
from sarguard.reference.training.hearing import SpeechEncoder
from sarguard.reference.training.lookup import LookupEncoder, build_lookup
from sarguard.reference.training.stage import TimeBudget, autocast, fastest_dtype
from sarguard.reference.training.train_answering import (
    AnsweringStage,
    generate_examples,
    measure_agreement,
    train_answering,
)
from sarguard.reference.training.train_hearing import (
    ClipStage,
    HearingStage,
    LookupStage,
    Preprocessor,
    heard,
    train_on_clips,
)
from sarguard.reference.training.workspace import Workspace

EXAMPLES = 1_920
GROUPS = ("seen", "unseen")

console = Console(stderr=True)


def main() -> None:
    """Run every stage that is not done yet."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workspace = Workspace(options.out, device)
    check_engines()
    _render_clips(workspace)
    encoder = workspace.encoder()
    if not options.start_from:
        budget = TimeBudget(options.hearing_minutes * 60)
        hearing = HearingStage(encoder, budget, options.out / "hearing.pt")
        _train_on_clips(workspace, hearing, workspace.preprocessor, seed=options.seed)
    model, _ = workspace.untrained
    lookup = build_lookup(
        model, encoder, workspace.lookup_tokens, space=workspace.space
    )
    if options.start_from:
        load_encoder(options.start_from, lookup)
    preprocessor = replace(
        workspace.preprocessor, vocabulary=tuple(workspace.lookup_tokens)
    )
    budget = TimeBudget(options.lookup_minutes * 60)
    stage = LookupStage(lookup, budget, options.out / "lookup.pt")
    _train_on_clips(workspace, stage, preprocessor, seed=options.seed)
    adapters = _train_answering(workspace, lookup, preprocessor, options)
    path = export(options.out, lookup, adapters, preprocessor.vocabulary)
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


def _train_on_clips(
    workspace: Workspace, stage: ClipStage, preprocessor: Preprocessor, *, seed: int
) -> None:
    train_on_clips(
        stage,
        preprocessor,
        preprocessor.with_known_tokens(workspace.training_clips(drilled=True)),
        seed=seed,
        evaluate=lambda: _word_errors(workspace, stage.encoder, preprocessor),
        report=console.log,
    )


def _train_answering(
    workspace: Workspace,
    encoder: LookupEncoder,
    preprocessor: Preprocessor,
    options: argparse.Namespace,
) -> Adapters:
    model, tokenizer = workspace.untrained
    adapters = _add_adapters(model)
    if options.start_from:
        load_adapters(options.start_from, adapters)
    text_model = AdaptedTextModel(model, tokenizer, adapters)
    spoken = _by_text(
        preprocessor.with_known_tokens(workspace.training_clips(drilled=False))
    )
    held_out = {g: {c.text: c for c in workspace.held_out_clips(g)} for g in GROUPS}
    examples, held_out_examples = _examples(
        workspace, text_model, spoken, held_out["seen"]
    )

    def evaluate() -> str:
        shares = []
        for group, clips in held_out.items():
            kept = [x for x in held_out_examples if x.text in clips]
            if kept:
                share = measure_agreement(
                    encoder, text_model, preprocessor, kept, clips
                )
                shares.append(f"{group} {share:.3f}")
        errors = _word_errors(workspace, encoder, preprocessor)
        return f"agreement {' '.join(shares)}; {errors}"

    budget = TimeBudget(options.answering_minutes * 60)
    stage = AnsweringStage(
        encoder,
        text_model,
        adapters,
        preprocessor,
        budget,
        options.out / "answering.pt",
    )
    train_answering(
        stage,
        examples,
        spoken,
        seed=options.seed,
        evaluate=evaluate,
        report=console.log,
    )
    return adapters


def _add_adapters(model: PreTrainedModel) -> Adapters:
    """Add adapters in float32 to the text model, itself in the fastest format."""
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
    spoken: dict[str, list[Clip]],
    held_out: dict[str, Clip],
) -> tuple[list[Example], list[Example]]:
    """Return training and held-out examples, generated once and kept on disk."""
    path = workspace.directory / "lessons.pt"
    if not path.exists():
        rng = random.Random(0)
        texts = rng.sample(sorted(spoken), min(EXAMPLES, len(spoken)))
        with autocast(workspace.device):
            examples = generate_examples(
                text_model, texts, seed=0, greedy=False, report=console.log
            )
            held_out_examples = generate_examples(
                text_model,
                sorted(held_out)[:96],
                seed=1,
                greedy=True,
                report=console.log,
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
    return examples, held_out_examples


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
