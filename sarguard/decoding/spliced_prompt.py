"""Prompts of tokens and clip embeddings, run on what caches hold of their beginnings.

Each column of a prompt has a name: its token, or its clip's digest and the column of
that clip. Two prompts whose first n names are equal have equal keys and values there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from sarguard.decoding.clip_embeddings import ClipColumns, spliced
from sarguard.decoding.generation_config import padding_token
from sarguard.models.loading import LoadedModel
from sarguard.models.prompt_ids import audio_places, prompt_ids
from sarguard.models.transformers_api import (
    cache_layers,
    cache_of,
    passing_cache,
    returned_cache,
)
from sarguard.models.untyped import KeyValueCache
from sarguard.steering.residual import capture_last_states
from sarguard.types import Turn

Layers: TypeAlias = "list[tuple[Tensor, Tensor]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPiece:
    """Consecutive columns of a prompt that stand for a part of a clip."""

    begin: int
    """The first of them."""
    digest: bytes
    part: range
    """The columns of the clip."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplicedPrompt:
    """One prompt, without padding."""

    ids: Tensor
    """Int64 on the CPU, shape (tokens,)."""
    names: tuple[Hashable, ...]
    """What each column is."""
    pieces: tuple[ClipPiece, ...]
    """Where which part of which clip stands."""

    def __len__(self) -> int:
        return len(self.names)

    def shared_with(self, names: Sequence[Hashable]) -> int:
        """Return how many of its first columns have the names given.

        One at the least is left to run: its last state is what is read.
        """
        most = min(len(names), len(self) - 1)
        for column in range(most):
            if names[column] != self.names[column]:
                return column
        return most

    def embeddings_from(
        self, column: int, embeddings: Mapping[bytes, Tensor]
    ) -> list[tuple[int, Tensor]]:
        """Return the clips' embeddings from a column on, columns counted from it."""
        found = []
        for piece in self.pieces:
            skipped = max(0, column - piece.begin)
            part = piece.part[skipped:]
            if part:
                columns = embeddings[piece.digest][part.start : part.stop]
                found.append((piece.begin + skipped - column, columns))
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptPrefix:
    """Unsteered keys and values of a prompt's first columns."""

    names: tuple[Hashable, ...]
    layers: Layers
    """Each of shape (1, heads, columns, width)."""

    @property
    def size(self) -> int:
        """Return how many bytes the keys and values take."""
        return sum(
            part.numel() * part.element_size() for pair in self.layers for part in pair
        )

    def cropped(self, columns: int) -> KeptPrefix:
        """Return its first columns; keys and values stay where they are."""
        return KeptPrefix(
            names=self.names[:columns],
            layers=[(k[:, :, :columns], v[:, :, :columns]) for k, v in self.layers],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassResult:
    """One forward pass over some prompts."""

    states: Tensor
    """Clean last-token states, float32, shape (layers, rows, width)."""
    cache: KeyValueCache
    mask: Tensor
    """What of the cache's columns is of each row, shape (rows, columns)."""

    def prefix(self, row: int, prompt: SplicedPrompt, *, columns: int) -> KeptPrefix:
        """Return a copy of what the cache holds of a prompt's first columns."""
        places = self.mask[row].nonzero().flatten()[:columns]
        return KeptPrefix(
            names=prompt.names[:columns],
            layers=[
                (k[row : row + 1, :, places], v[row : row + 1, :, places])
                for k, v in cache_layers(self.cache)
            ],
        )


def splice_prompt(
    loaded: LoadedModel,
    turns: Sequence[Turn],
    clips: Mapping[int, ClipColumns],
    *,
    without_silence: bool = False,
) -> SplicedPrompt:
    """Return a conversation's prompt, and where its clips' embeddings go.

    Args:
        loaded: A model whose family splices clips.
        turns: The conversation.
        clips: What stands for each clip, by the `id` of its array.
        without_silence: Leave out the silence before and behind each clip's speech.

    Raises:
        ConfigurationError: As for `build_inputs`.
    """
    heard = [clips[id(clip)] for turn in turns for clip in turn.audio]
    if without_silence:
        heard = [clip.trimmed or clip for clip in heard]
    parts = [clip.speech if without_silence else range(clip.count) for clip in heard]
    ids = prompt_ids(loaded, turns, [len(part) for part in parts])
    names: list[Hashable] = ids.tolist()
    places = audio_places(loaded, ids).nonzero().flatten().tolist()
    pieces, done = [], 0
    for clip, part in zip(heard, parts, strict=True):
        begin = places[done]
        # A clip's tokens are consecutive: the writer makes them of one stand-in's.
        names[begin : begin + len(part)] = [(clip.digest, place) for place in part]
        pieces.append(ClipPiece(begin=begin, digest=clip.digest, part=part))
        done += len(part)
    return SplicedPrompt(ids=ids, names=tuple(names), pieces=tuple(pieces))


def run_prompts(
    loaded: LoadedModel,
    prompts: Sequence[SplicedPrompt],
    embeddings: Mapping[bytes, Tensor],
    prefixes: Sequence[KeptPrefix | None] | None = None,
) -> PassResult:
    """Run prompts unsteered in one padded pass, each on the prefix that is given.

    Args:
        loaded: The model, free to run.
        prompts: One a row.
        embeddings: Of every clip that is not in a prefix, by its digest.
        prefixes: For each prompt, what is to be taken over; all of its columns have to
            be the prompt's first ones.
    """
    kept = prefixes or [None] * len(prompts)
    past = [0 if prefix is None else len(prefix.names) for prefix in kept]
    fresh = [len(p) - columns for p, columns in zip(prompts, past, strict=True)]
    device, width, before = loaded.device, max(fresh), max(past)
    ids = torch.full((len(prompts), width), padding_token(loaded), dtype=torch.long)
    mask = torch.zeros((len(prompts), before + width), dtype=torch.long)
    pieces = []
    for row, prompt in enumerate(prompts):
        ids[row, width - fresh[row] :] = prompt.ids[past[row] :]
        mask[row, before - past[row] : before] = 1
        mask[row, before + width - fresh[row] :] = 1
        pad = width - fresh[row]
        found = prompt.embeddings_from(past[row], embeddings)
        pieces.append([(pad + column, columns) for column, columns in found])
    mask = mask.to(device)
    # Counted from each row's first token, so that padding changes no rotary angle.
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, before:]
    inputs = {
        "input_ids": ids.to(device),
        "attention_mask": mask,
        "position_ids": positions,
    }
    if before:
        inputs |= passing_cache(cache_of(_stacked(kept, past)))
    with (
        spliced(loaded, pieces),
        capture_last_states(loaded.decoder) as captured,
        torch.no_grad(),
    ):
        output = loaded.decoder.backbone(**inputs, use_cache=True)
    return PassResult(
        states=captured.stacked().float(), cache=returned_cache(output), mask=mask
    )


def left_padded(prefixes: Sequence[KeptPrefix]) -> KeyValueCache:
    """Return one cache of several prefixes, a row each, padded on the left."""
    return cache_of(_stacked(prefixes, [len(prefix.names) for prefix in prefixes]))


def _stacked(prefixes: Sequence[KeptPrefix | None], past: Sequence[int]) -> Layers:
    columns = max(past)
    known = next(prefix for prefix in prefixes if prefix is not None)

    def stack(layer: int, part: int) -> Tensor:
        like = known.layers[layer][part]
        shape = (len(prefixes), like.shape[1], columns, like.shape[3])
        made = like.new_zeros(shape)
        for row, prefix in enumerate(prefixes):
            if prefix is not None:
                made[row, :, columns - past[row] :] = prefix.layers[layer][part][0]
        return made

    return [(stack(i, 0), stack(i, 1)) for i in range(len(known.layers))]
