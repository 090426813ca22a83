"""Decoding answers with every one of their tokens steered.

The decode step is ours, because the dose is decided inside it, rows end one by one
and no token may leave before its receipt is checked. Caches, inputs, positions and
logits processors are the library's.
"""

from __future__ import annotations

from sarguard.decoding.generation_config import stop_tokens
from sarguard.decoding.json_grammar import JsonGrammar
from sarguard.decoding.loop import decode_rows, guarded_decode
from sarguard.decoding.row import Row
from sarguard.decoding.sampling import Sampling

__all__ = [
    "JsonGrammar",
    "Row",
    "Sampling",
    "decode_rows",
    "guarded_decode",
    "stop_tokens",
]
