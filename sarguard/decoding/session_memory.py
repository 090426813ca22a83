"""What is kept of a session's last request, so that the next reads only what is new.

All of it was computed from the session's own sound and words, unsteered. Digests are
made with a key of the session's own: what one session sent says nothing of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from sarguard.decoding.clip_embeddings import ClipColumns, new_key
from sarguard.decoding.readings import Reading
from sarguard.decoding.spliced_prompt import KeptPrefix


class SessionMemory:
    """Clip embeddings, states of readings, and the last prompt's keys and values.

    Each request replaces what the one before left, so that it grows with the
    conversation only. It is read and written on the model's thread.
    """

    def __init__(self) -> None:
        self.key = new_key()
        """The key of the session's digests."""
        self.clips: Mapping[bytes, tuple[ClipColumns, Tensor]] = {}
        """What stands for a clip, and its embeddings, by the clip's digest."""
        self.states: Mapping[bytes, Tensor] = {}
        """Last-token states, (layers, width), by the reading's digest."""
        self.prefixes: tuple[KeptPrefix, ...] = ()
        """All columns of the last prompt, and of those read beside it that the next
        request goes on from; none where the cache could not be kept."""

    @property
    def size(self) -> int:
        """Return how many bytes its tensors take."""
        tensors = [columns for _, columns in self.clips.values()]
        tensors += list(self.states.values())
        kept = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return kept + sum(prefix.size for prefix in self.prefixes)

    def keep(
        self,
        clips: Mapping[bytes, tuple[ClipColumns, Tensor]],
        states: Mapping[bytes, Tensor],
        prefixes: Sequence[KeptPrefix],
    ) -> None:
        """Replace what is kept."""
        self.clips, self.states, self.prefixes = clips, states, tuple(prefixes)


class ClipCache(SessionMemory):
    """Clip embeddings and states of readings, of all that was asked lately.

    For calibration and measurement, which ask the same clips in many prompts and have
    no callers to keep apart.
    """

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        """Keep up to a number of bytes of tensors."""
        super().__init__()
        self._max_bytes = max_bytes

    def keep(
        self,
        clips: Mapping[bytes, tuple[ClipColumns, Tensor]],
        states: Mapping[bytes, Tensor],
        prefixes: Sequence[KeptPrefix],
    ) -> None:
        """Add to what is kept; prompts differ too much for their prefixes to serve."""
        # The newest last: what was asked longest ago goes first.
        self.clips = {d: c for d, c in self.clips.items() if d not in clips} | {**clips}
        self.states = {d: s for d, s in self.states.items() if d not in states} | {
            **states
        }
        while self.size > self._max_bytes and (self.clips or self.states):
            self.clips = dict(list(self.clips.items())[len(self.clips) // 4 + 1 :])
            self.states = dict(list(self.states.items())[len(self.states) // 4 + 1 :])


def reading_digest(
    reading: Reading, clips: Mapping[int, ClipColumns], key: bytes
) -> bytes:
    """Return a digest of what a reading says, without its kind.

    Args:
        reading: It may have any number of turns.
        clips: What stands for each clip, by the `id` of its array.
        key: The session's.
    """
    made = hashlib.blake2b(key=key, digest_size=16)
    for turn in reading.turns:
        text = turn.text.encode("utf-8", "surrogatepass")
        # With numbers and lengths: where one ends and the next begins counts.
        made.update(f"{turn.role} {len(turn.audio)} {len(text)} ".encode())
        for clip in turn.audio:
            made.update(clips[id(clip)].digest)
        made.update(text)
    return made.digest()
