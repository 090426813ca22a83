"""Which prompts may share a batch without hearing something else in it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from sarguard.models.families import family_of
from sarguard.models.loading import LoadedModel
from sarguard.types import Turn


def batch_key(loaded: LoadedModel, turns: Sequence[Turn]) -> Hashable:
    """Return a key; conversations of equal keys answer in a batch as they do alone.

    Args:
        loaded: The model they are for.
        turns: One conversation.
    """
    family = family_of(loaded.model.config)
    lengths = sorted({clip.shape[-1] for turn in turns for clip in turn.audio})
    if family.equal_lengths:
        return tuple(lengths)
    # A processor that counts one clip a prompt counts them over the batch.
    apart = family.equal_modality or family.single_audio
    return bool(lengths) if apart else None
