"""Reading the states that calibration works with, a batch of clips at a time.

The texts that go with a clip differ only after it, so the clip is read once and each
text goes on from there. A batch holds clips of about the same length.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from sarguard.calibration.gate_fit import MatchedStates
from sarguard.calibration.journal import Journal, name_of
from sarguard.calibration.recipe import (
    BATCH_SIZE,
    REFERENCE_RECIPE,
    Clip,
    Pair,
    Progress,
    Recipe,
)
from sarguard.models.families import family_of
from sarguard.models.inputs import audio_token_id, batch_key, build_inputs
from sarguard.models.loading import LoadedModel
from sarguard.models.transformers_api import passing_cache
from sarguard.models.untyped import KeyValueCache
from sarguard.steering.residual import last_states, run_and_read
from sarguard.types import Turn

_NO_TEXT = ""

_Inputs: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationStates:
    """The last-token states of calibration, float32, shape (N, L, D)."""

    refusing: Tensor
    """Harmful clip, instruction and refusal sentence."""
    harmful: Tensor
    """The same harmful clip, instruction alone."""
    safe: Tensor
    """Matched harmless clip, instruction alone."""
    benign: Tensor | None = None
    """Unmatched harmless clips, instruction alone, shape (M, L, D)."""
    no_instruction: MatchedStates | None = None
    """The same clips with no text at all, which the gate learns from as well."""

    @property
    def alone(self) -> MatchedStates:
        """Return the states of clips read alone, in which requests are scored."""
        if self.no_instruction is not None:
            return self.no_instruction
        return MatchedStates(harmful=self.harmful, safe=self.safe, benign=self.benign)

    @property
    def matched(self) -> MatchedStates:
        """Return what a gate is fitted to: every clip in every input form."""
        instructed = MatchedStates(
            harmful=self.harmful, safe=self.safe, benign=self.benign
        )
        if self.no_instruction is None:
            return instructed
        return instructed.interleave(self.no_instruction)


def calibration_states(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    recipe: Recipe = REFERENCE_RECIPE,
    *,
    benign: Sequence[Clip] = (),
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> CalibrationStates:
    """Read the states that vectors and gate are computed from.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Harmful clips and the harmless ones matched to them.
        recipe: The texts.
        benign: See `ReadOptions`, as for the two that follow.
        batch_size: Maximum number of clips that are read together.
        progress: Called with (clips done, all of them).
        journal: Keeps what was read for a run that goes on.
    """
    harmful = [pair.harmful for pair in pairs]
    safe = [pair.safe for pair in pairs]
    total = len(harmful) + len(safe) + len(benign)
    done = 0

    def count(clips: int) -> None:
        nonlocal done
        done += clips
        if progress is not None:
            progress(done, total)

    def read(clips: Sequence[Clip], *texts: str) -> list[Tensor]:
        return read_states(
            loaded,
            clips,
            texts,
            batch_size=batch_size,
            after_batch=count,
            journal=journal,
        )

    text = recipe.instruction
    refusing, instructed, bare = read(harmful, text + recipe.refusal, text, _NO_TEXT)
    safe_instructed, safe_bare = read(safe, text, _NO_TEXT)
    extra = read(benign, text, _NO_TEXT) if benign else (None, None)
    return CalibrationStates(
        refusing=refusing,
        harmful=instructed,
        safe=safe_instructed,
        benign=extra[0],
        no_instruction=MatchedStates(harmful=bare, safe=safe_bare, benign=extra[1]),
    )


def read_states(
    loaded: LoadedModel,
    clips: Sequence[Clip],
    texts: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
    after_batch: Callable[[int], None] = lambda clips: None,
    journal: Journal | None = None,
) -> list[Tensor]:
    """Return what every layer holds where the answer to a clip and a text begins.

    Args:
        loaded: The model, with no steerer attached.
        clips: Each is read with every text.
        texts: Each accompanies every clip.
        batch_size: Maximum number of clips that are read together.
        after_batch: Called with how many clips a batch had.
        journal: Keeps each batch.

    Returns:
        One tensor a text, float32 on the CPU, shape (clips, layers, width).
    """
    shape = (len(clips), len(loaded.decoder), loaded.decoder.hidden_size)
    # On the CPU: the device holds the states of one batch at a time.
    found = [torch.empty(shape) for _ in texts]
    kept = journal or Journal()
    for rows in _batches(loaded, clips, batch_size):
        batch = [clips[row] for row in rows]
        name = name_of("clips", texts, batch)
        read = kept.once(name, partial(_by_text, loaded, batch, texts))
        for number, states in enumerate(found):
            # Each to its clip's own place: batches are in the order of lengths.
            states[rows] = read[str(number)]
        after_batch(len(rows))
    return found


def _by_text(
    loaded: LoadedModel, clips: Sequence[Clip], texts: Sequence[str]
) -> dict[str, Tensor]:
    """Return the states of clips with each text, (clips, layers, width), numbered."""
    read = _read(loaded, [_prompts(loaded, clips, text) for text in texts])
    return {
        str(number): states.transpose(0, 1).float().cpu()
        for number, states in enumerate(read)
    }


def _batches(
    loaded: LoadedModel, clips: Sequence[Clip], size: int
) -> Iterator[list[int]]:
    """Yield the indices of the clips of each batch."""

    def key(index: int) -> object:
        return batch_key(loaded, [_turn(clips[index], _NO_TEXT)])

    # Neighbours in length waste the least padding, and clips of one key are of one
    # length where a family must not pad them.
    by_length = sorted(range(len(clips)), key=lambda index: clips[index].shape[0])
    # groupby joins neighbours only. A key is a length, and so in order, or the same for
    # every clip here.
    for _, alike in itertools.groupby(by_length, key):
        group = list(alike)
        yield from (group[i : i + size] for i in range(0, len(group), size))


def _turn(clip: Clip, text: str) -> Turn:
    return Turn(role="user", text=text, audio=(clip,))


def _prompts(loaded: LoadedModel, clips: Sequence[Clip], text: str) -> _Inputs:
    return build_inputs(loaded, [[_turn(clip, text)] for clip in clips])


def _read(loaded: LoadedModel, prompts: Sequence[_Inputs]) -> list[Tensor]:
    """Return the states of prompts that differ in their text, (layers, rows, width)."""
    if not family_of(loaded.model.config).shares_prefix:
        return [last_states(loaded.decoder, prompt) for prompt in prompts]
    placed = [_with_positions(prompt) for prompt in prompts]
    shared = shared_columns(loaded, prompts)
    if shared == 0:
        return [last_states(loaded.decoder, prompt) for prompt in placed]
    prefix = dict(placed[0])
    # The clip's features stay whole: all of its tokens are in the shared columns.
    for name in ("input_ids", "attention_mask", "position_ids"):
        prefix[name] = prefix[name][:, :shared]
    _, cache = run_and_read(loaded.decoder, prefix, use_cache=True)
    # Each text gets a copy: reading on adds its tokens to the cache in place.
    return [
        _continue(loaded, prompt, shared, copy.deepcopy(cache)) for prompt in placed
    ]


def _with_positions(prompt: _Inputs) -> _Inputs:
    # Rows are left padded. Positions are counted from each row's first token, as in an
    # answer, so that padding changes no rotary angle.
    positions = (prompt["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return {**prompt, "position_ids": positions}


def _continue(
    loaded: LoadedModel, prompt: _Inputs, shared: int, cache: KeyValueCache
) -> Tensor:
    rest = {
        # The mask covers the cached columns too; ids and positions are the new ones'.
        "input_ids": prompt["input_ids"][:, shared:],
        "attention_mask": prompt["attention_mask"],
        "position_ids": prompt["position_ids"][:, shared:],
        **passing_cache(cache),
    }
    states, _ = run_and_read(loaded.decoder, rest, use_cache=True)
    return states


def shared_columns(loaded: LoadedModel, prompts: Sequence[Mapping[str, Tensor]]) -> int:
    """Return how many leading columns, all audio among them, prompts have in common.

    Every prompt keeps one column of its own: its last token is what is read.
    """
    token = audio_token_id(loaded)
    if len(prompts) < 2 or token is None:
        return 0
    length = min(prompt["input_ids"].shape[1] for prompt in prompts) - 1
    first = prompts[0]
    differs = torch.zeros(length, dtype=torch.bool, device=first["input_ids"].device)
    for prompt in prompts[1:]:
        # The mask too: where padding differs, the same token has another position.
        for name in ("input_ids", "attention_mask"):
            differs |= (prompt[name][:, :length] != first[name][:, :length]).any(dim=0)
    columns = differs.nonzero()
    shared = int(columns[0]) if len(columns) else length
    # A clip cannot be divided: its features go into one pass.
    audio = (first["input_ids"] == token).any(dim=0).nonzero()
    covers_audio = len(audio) > 0 and int(audio[-1]) < shared
    return shared if covers_audio else 0
