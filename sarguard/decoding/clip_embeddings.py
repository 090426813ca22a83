"""What the decoder gets for a clip: made once, and put into any prompt.

The encoder costs most of a short prompt's reading. A model's own forward pass over a
prompt with the clip is stopped where its text decoder begins; the columns of the audio
tokens are kept, and written into later prompts that carry tokens alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sarguard.audio.silence import SpeechSpan, speech_span
from sarguard.errors import SteeringNotAppliedError
from sarguard.models.families import family_of
from sarguard.models.inputs import (
    audio_token_counts,
    build_inputs,
)
from sarguard.models.loading import LoadedModel
from sarguard.models.prompt_ids import audio_places
from sarguard.types import Turn

_DIGEST_BYTES = 16
_TRIMMED = b"-"
# Shorter silence moves a score little; longer is worth a second clip for the encoder,
# in the same pass.
_LONG_SILENCE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipColumns:
    """Which tokens of a prompt stand for a clip."""

    digest: bytes
    """Digest of its samples, with a key that the caller chose."""
    count: int
    """How many tokens stand for it."""
    speech: range
    """Those that are left without the silence before and behind the speech."""
    trimmed: ClipColumns | None = None
    """The same clip encoded without its silence, where that is long: there the encoder
    hears the speech itself otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipInputs:
    """Clips that are ready for the encoder."""

    columns: tuple[ClipColumns, ...]
    inputs: dict[str, Tensor]
    """What `build_inputs` gave for a prompt with each clip; empty without a clip."""


def splices(loaded: LoadedModel) -> bool:
    """Return whether a model's family takes embeddings for a clip exactly."""
    return family_of(loaded.model.config).splices_clips


def new_key() -> bytes:
    """Return a new key for digests of clips."""
    return os.urandom(_DIGEST_BYTES)


def clip_digest(clip: NDArray[np.float32], key: bytes) -> bytes:
    """Return a digest of a clip's samples; without the key it tells nothing of them."""
    samples = np.ascontiguousarray(clip).data
    return hashlib.blake2b(samples, key=key, digest_size=_DIGEST_BYTES).digest()


def prepare_clips(
    loaded: LoadedModel, clips: Mapping[bytes, NDArray[np.float32]]
) -> ClipInputs:
    """Prepare clips for the encoder.

    Args:
        loaded: A model whose family splices clips.
        clips: Mono samples at the model's rate, (samples,), by their digests.

    Raises:
        AudioTooLongError: A clip is longer than the model hears.
        AudioFormatError: A clip is not what `load_audio` returns.
    """
    if not clips:
        return ClipInputs(columns=(), inputs={})
    spans = {d: speech_span(clip, loaded.sampling_rate) for d, clip in clips.items()}
    heard = {**clips, **_trimmed(loaded, clips, spans)}
    prompts = [[Turn(role="user", audio=(clip,))] for clip in heard.values()]
    inputs = build_inputs(loaded, prompts)
    counts = audio_token_counts(loaded, inputs)
    columns: dict[bytes, ClipColumns] = {}
    # The trimmed ones first, which are the last: whole clips name them.
    for digest, count in reversed(list(zip(heard, counts, strict=True))):
        trimmed = columns.get(digest + _TRIMMED)
        speech = range(count)
        if digest in clips:
            speech = speech_columns(len(clips[digest]), spans[digest], count)
        columns[digest] = ClipColumns(
            digest=digest, count=count, speech=speech, trimmed=trimmed
        )
    return ClipInputs(columns=tuple(columns[d] for d in heard), inputs=inputs)


def _trimmed(
    loaded: LoadedModel,
    clips: Mapping[bytes, NDArray[np.float32]],
    spans: Mapping[bytes, SpeechSpan],
) -> dict[bytes, NDArray[np.float32]]:
    """Return clips with long silences without them, by digests of their own."""
    found = {}
    for digest, clip in clips.items():
        span = spans[digest]
        if long_silence(loaded, clip, span):
            found[digest + _TRIMMED] = clip[span.start : span.stop]
    return found


def embed_clips(loaded: LoadedModel, clips: ClipInputs) -> dict[bytes, Tensor]:
    """Run the encoder over clips, one pass for all of them.

    Returns:
        For each digest, in the model's dtype and on its device, (tokens, width).

    Raises:
        SteeringNotAppliedError: The embeddings do not reach the decoder as expected.
    """
    if not clips.columns:
        return {}
    embeddings = _decoder_input(loaded, clips.inputs)
    audio = audio_places(loaded, clips.inputs["input_ids"])
    # Indexing copies, so that the other rows' embeddings are not kept alive.
    return {
        clip.digest: embeddings[row][audio[row]]
        for row, clip in enumerate(clips.columns)
    }


def long_silence(
    loaded: LoadedModel, clip: NDArray[np.float32], span: SpeechSpan
) -> bool:
    """Return whether a clip holds so much silence that it moves a prompt's state.

    Args:
        loaded: The model that hears it.
        clip: Mono samples at the model's rate, (samples,).
        span: Its speech.
    """
    return len(clip) - (span.stop - span.start) > _LONG_SILENCE_S * loaded.sampling_rate


def speech_columns(samples: int, span: SpeechSpan, count: int) -> range:
    """Return which of a clip's audio tokens lie between its silences.

    Args:
        samples: How many the clip has.
        span: Its speech.
        count: How many tokens stand for it.
    """
    share = count / max(1, samples)
    # Outwards to whole columns; one at the least.
    stop = max(1, min(count, -int(-span.stop * share // 1)))
    return range(min(int(span.start * share), stop - 1), stop)


@contextmanager
def spliced(
    loaded: LoadedModel, rows: Sequence[Sequence[tuple[int, Tensor]]]
) -> Iterator[None]:
    """Write embeddings into the one forward pass inside the block.

    Args:
        loaded: A model whose family `splices`.
        rows: For each row of the pass, embeddings of shape (tokens, width) and the
            column of the pass where they begin.

    Raises:
        SteeringNotAppliedError: The decoder took other arguments than expected.
    """
    passes = 0

    def write(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal passes
        passes += 1
        embeddings = _embeddings(module, kwargs).clone()
        for row, pieces in enumerate(rows):
            for begin, columns in pieces:
                embeddings[row, begin : begin + len(columns)] = columns
        return args, {**kwargs, "inputs_embeds": embeddings}

    handle = loaded.decoder.owner.register_forward_pre_hook(write, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
    if passes != 1:
        raise SteeringNotAppliedError(
            f"the text decoder ran {passes} times on embeddings for one pass"
        )


class _DecoderReachedError(Exception):
    """Control flow: all that is wanted of a pass is there."""


def _decoder_input(loaded: LoadedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Return what a forward pass hands to the text decoder, and stop it there."""
    found: list[Tensor] = []

    def keep(module: nn.Module, _args: object, kwargs: dict[str, Any]) -> None:
        found.append(_embeddings(module, kwargs).detach())
        raise _DecoderReachedError

    handle = loaded.decoder.owner.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            loaded.decoder.backbone(**inputs, use_cache=False)
    except _DecoderReachedError:
        return found[0]
    finally:
        handle.remove()
    raise SteeringNotAppliedError(
        f"{loaded.name}: a forward pass did not reach {loaded.decoder.path}"
    )


def _embeddings(module: nn.Module, kwargs: dict[str, Any]) -> Tensor:
    found = kwargs.get("inputs_embeds")
    if not isinstance(found, Tensor) or found.dim() != 3:
        raise SteeringNotAppliedError(
            f"{type(module).__name__} was not given inputs_embeds of three dimensions: "
            "clips cannot be put into its prompts"
        )
    return found
