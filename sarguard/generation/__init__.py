"""Decoding answers with every one of their tokens steered.

The decode step is ours, because the dose is decided inside it, rows end one by one
and no token may leave before its receipt is checked. Caches, inputs, positions and
logits processors are the library's.
"""

from __future__ import annotations

from sarguard.generation.batch import Decoded, guarded_decode
from sarguard.generation.json_answers import JsonGrammar
from sarguard.generation.row import Row
from sarguard.generation.sampling import Sampling
from sarguard.generation.settings import stop_tokens
from sarguard.generation.steps import decode_rows

__all__ = [
    "Decoded",
    "JsonGrammar",
    "Row",
    "Sampling",
    "decode_rows",
    "guarded_decode",
    "stop_tokens",
]
