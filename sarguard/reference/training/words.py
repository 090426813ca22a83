"""Word error rate."""

from __future__ import annotations

import re
from collections.abc import Sequence


def words(text: str) -> list[str]:
    """Return the words compared: lower case, punctuation dropped."""
    return re.findall(r"[a-z0-9']+", text.lower())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return substitutions, insertions and deletions over reference words."""
    pairs = [(words(r), words(h)) for r, h in zip(references, hypotheses, strict=True)]
    errors = sum(edit_distance(r, h) for r, h in pairs)
    return errors / max(1, sum(len(r) for r, _ in pairs))


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return the Levenshtein distance between two word sequences."""
    row = list(range(len(hypothesis) + 1))
    for place, word in enumerate(reference, start=1):
        previous, row[0] = row[0], place
        for column, other in enumerate(hypothesis, start=1):
            cost = min(row[column] + 1, row[column - 1] + 1, previous + (word != other))
            previous, row[column] = row[column], cost
    return row[-1]
