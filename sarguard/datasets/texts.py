"""The texts of the spoken requests.

Requests come in matched pairs: a harmful one and a harmless one of the same sentence
shape and about the same length. The two differ in intent alone, so a model's states
differ by intent and not by style. Ordinary and borderline requests are unpaired.

Instructions ("Reply in one sentence.", a JSON schema) are no requests: they stand
beside clips and between turns, and have a file of their own.

Splits: `calibration` (vectors are fitted on it), `validation` (tiers are chosen on
it), `test` (held out: other targets and other wording) and `demo` hold pairs.
`ordinary` holds harmless requests alone; `borderline` harmless requests that look
harmful, of two kinds. Those of the topic `words` use a harmful word in a harmless sense
("kill a process"), those of the topic `topic` ask a harmless question near harm. Both
are held out, like `test`; those of calibration and validation are their counterparts
in the other splits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Split = Literal[
    "calibration",
    "validation",
    "test",
    "demo",
    "ordinary",
    "borderline",
    "borderline_calibration",
    "ordinary_calibration",
    "ordinary_validation",
    "borderline_validation",
]
Kind = Literal["harmful", "safe"]

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestText:
    """Text of one request that somebody could say to a model."""

    pair: str | None
    """Identifier shared by the two requests of a pair; None if unpaired."""
    source: str
    """Identifier of the row in texts.jsonl."""
    kind: Kind
    split: Split
    topic: str
    text: str


@cache
def load_texts() -> tuple[RequestText, ...]:
    """Return every request in file order, the two of a pair next to each other.

    Any prefix of the pairs of `calibration`, `validation` or `test` covers the topics
    evenly, so a limit on pairs does not lose a topic.
    """
    source = Path(__file__).with_name("texts.jsonl")
    lines = source.read_text(encoding="utf-8").splitlines()
    return tuple(request for line in lines for request in _requests(json.loads(line)))


def load_sentences() -> frozenset[str]:
    """Return the set of all texts, for training corpora to leave out."""
    return frozenset(request.text for request in load_texts())


@cache
def load_instructions() -> tuple[str, ...]:
    """Return harmless instructions and short replies, which are written, not spoken."""
    source = Path(__file__).with_name("instructions.txt")
    return tuple(source.read_text(encoding="utf-8").splitlines())


def _requests(row: dict[str, str]) -> list[RequestText]:
    if "text" in row:
        return [_request(row, kind="safe", pair=None, text=row["text"])]
    kinds: tuple[Kind, ...] = ("harmful", "safe")
    return [_request(row, kind=kind, pair=row["id"], text=row[kind]) for kind in kinds]


def _request(
    row: dict[str, str], *, kind: Kind, pair: str | None, text: str
) -> RequestText:
    split = next(split for split in SPLITS if split == row["split"])
    return RequestText(
        pair=pair,
        source=row["id"],
        kind=kind,
        split=split,
        topic=row["topic"],
        text=text,
    )
