"""Matched spoken requests that ship with sarguard, and a reader for your own."""

from .clips import Clip, data_digest, load_clips, load_manifest
from .pairs import CalibrationPair, load_benign, load_pairs
from .texts import Request, load_sentences, load_texts
from .user_manifest import (
    PairFiles,
    load_user_pairs,
    read_user_manifest,
    user_data_digest,
)

__all__ = [
    "CalibrationPair",
    "Clip",
    "PairFiles",
    "Request",
    "data_digest",
    "load_benign",
    "load_clips",
    "load_manifest",
    "load_pairs",
    "load_sentences",
    "load_texts",
    "load_user_pairs",
    "read_user_manifest",
    "user_data_digest",
]
