"""`sarguard evaluate MODEL`: bare, raw, ablated and random, at several doses."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.cli.options import (
    add_bundle_option,
    add_model_options,
    add_token_option,
    positive_floats,
    positive_int,
)
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    from sarguard.calibration_data import CalibrationPair
    from sarguard.cli.options import Commands
    from sarguard.evaluation.answering import Question
    from sarguard.evaluation.measuring import ArmAnswers
    from sarguard.models.loading import LoadedModel

_ALPHAS = (0.05, 0.1, 0.15, 0.2)
_MAX_NEW_TOKENS = 40
_BATCH_SIZE = 16
_ARMS = ("bare", "raw", "ablated", "random")


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure refusals, over-refusals and broken answers",
        description="Ask held-out harmful and harmless spoken requests: the bare "
        "model, the raw and the safe-ablated vector, and a random direction, at "
        "several doses, greedily. The default grid asks 150 requests in 13 arms.",
    )
    parser.add_argument(
        "model", nargs="?", default="reference", help="model (default: reference)"
    )
    add_bundle_option(parser)
    parser.add_argument(
        "--split", choices=("test", "calibration", "demo"), default="test"
    )
    parser.add_argument(
        "--voice",
        choices=("seen", "unseen", "all"),
        default="seen",
        help="voices that the reference model was trained on, others, or both "
        "(default: seen)",
    )
    parser.add_argument(
        "--pairs", metavar="FILE", help="pairs of your own: a JSONL manifest"
    )
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="most pairs to ask"
    )
    parser.add_argument("--text", default="", help="text that goes with every clip")
    parser.add_argument(
        "--alphas",
        type=positive_floats,
        default=_ALPHAS,
        metavar="A,B,...",
        help=f"doses (default: {','.join(f'{a:g}' for a in _ALPHAS)})",
    )
    parser.add_argument(
        "--arms",
        type=_arms,
        default=_ARMS,
        metavar="A,B,...",
        help=f"which of {', '.join(_ARMS)} (default: all)",
    )
    add_token_option(parser, _MAX_NEW_TOKENS)
    parser.add_argument(
        "--batch-size", type=positive_int, default=_BATCH_SIZE, metavar="N"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="also write JSON, to a file or - for stdout"
    )
    parser.add_argument("--markdown", metavar="FILE", help="also write Markdown")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, and write the tables."""
    from sarguard.cli.evaluate_screen import print_table
    from sarguard.cli.opening import open_model_and_bundle
    from sarguard.cli.screen import print_json, remarks, results, steps
    from sarguard.evaluation.answering import as_questions
    from sarguard.evaluation.arms import ArmName, plan_arms
    from sarguard.evaluation.markdown import to_markdown
    from sarguard.evaluation.measuring import measure
    from sarguard.evaluation.table import tabulate

    for file in (options.json, options.markdown):
        _check_writable(file)
    loaded, bundle = open_model_and_bundle(options)
    questions = as_questions(_pairs(options, loaded))
    arms = plan_arms(options.alphas, [ArmName(name) for name in options.arms])
    with steps(f"{len(questions)} requests in {len(arms)} arms") as advance:
        answers = measure(
            loaded,
            bundle.vectors,
            questions,
            arms,
            text=options.text,
            max_new_tokens=options.max_new_tokens,
            batch_size=options.batch_size,
            progress=advance,
        )
    table = tabulate(questions, answers)
    facts = {
        "model": loaded.name,
        "bundle_digest": bundle.digest,
        "pairs_from": options.pairs or f"{options.split}, {options.voice} voices",
        "text": options.text,
        "max_new_tokens": options.max_new_tokens,
    }
    print_table(remarks() if options.json == "-" else results(), table, facts)
    content = {**facts, **table.to_dict(), "labels": _labels(questions, answers)}
    if options.json == "-":
        print_json(content)
    elif options.json is not None:
        _write_json(options.json, content)
    if options.markdown is not None:
        Path(options.markdown).write_text(to_markdown(table), encoding="utf-8")
    return 0


def _arms(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    unknown = sorted(set(names) - set(_ARMS))
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown)}: choose from {', '.join(_ARMS)}"
        )
    return tuple(name for name in _ARMS if name in names)


def _pairs(options: argparse.Namespace, loaded: LoadedModel) -> list[CalibrationPair]:
    from sarguard.calibration_data import load_pairs, load_user_pairs

    rate = loaded.sampling_rate
    if options.pairs is not None:
        return load_user_pairs(options.pairs, sample_rate=rate, limit=options.limit)
    return load_pairs(
        options.split,
        sample_rate=rate,
        limit=options.limit,
        voice=None if options.voice == "all" else options.voice,
    )


def _labels(
    questions: list[Question], answers: list[ArmAnswers]
) -> list[dict[str, Any]]:
    return [
        {
            "pair": question.pair,
            "kind": question.kind,
            "labels": {str(a.arm): a.labels[place].value for a in answers},
        }
        for place, question in enumerate(questions)
    ]


def _check_writable(file: str | None) -> None:
    """Find out before the measurement, not after it."""
    if file is None or file == "-":
        return
    path = Path(file)
    if path.is_dir() or not path.parent.is_dir():
        found = "is a directory" if path.is_dir() else "lies in no directory"
        raise ConfigurationError(
            f"cannot write {file}: it {found}; give a file in a directory that exists"
        )


def _write_json(file: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, allow_nan=False)
    Path(file).write_text(f"{text}\n", encoding="utf-8")
