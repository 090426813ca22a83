"""Readers for public sets that a caller has on disk, in the layouts they come in.

Nothing is downloaded. A set that is text alone is spoken by the synthesisers that also
spoke the shipped clips, in voices that training did not hear.
"""

from __future__ import annotations

from sarguard.evaluation.data.public_sets.choosing import READERS, public_suite
from sarguard.evaluation.data.public_sets.rows import PublicRow

__all__ = ["READERS", "PublicRow", "public_suite"]
