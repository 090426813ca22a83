"""Matched spoken requests that ship with sarguard, and a reader for your own."""

from __future__ import annotations

from sarguard.datasets.clips import Clip, data_digest, load_clips, load_manifest
from sarguard.datasets.pairs import CalibrationPair, load_benign, load_pairs
from sarguard.datasets.texts import (
    RequestText,
    load_instructions,
    load_sentences,
    load_texts,
)
from sarguard.datasets.user_manifest import (
    PairFiles,
    load_user_pairs,
    read_user_manifest,
    user_data_digest,
)

__all__ = [
    "CalibrationPair",
    "Clip",
    "PairFiles",
    "RequestText",
    "data_digest",
    "load_benign",
    "load_clips",
    "load_instructions",
    "load_manifest",
    "load_pairs",
    "load_sentences",
    "load_texts",
    "load_user_pairs",
    "read_user_manifest",
    "user_data_digest",
]
