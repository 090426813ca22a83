"""Turns as the tensors that a model takes."""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sarguard.errors import (
    AudioFormatError,
    AudioTooLongError,
    ConfigurationError,
    UnsupportedModelError,
)
from sarguard.models.families import family_of
from sarguard.models.loading import LoadedModel
from sarguard.types import Turn


def build_inputs(
    loaded: LoadedModel, conversations: Sequence[Sequence[Turn]]
) -> dict[str, torch.Tensor]:
    """Turn conversations into model inputs, left padded, on the model's device.

    Text that callers write is encoded as text: control tokens in it open no turn
    and stand for no clip.

    Args:
        loaded: The model to speak to.
        conversations: One sequence of turns a row; the generation prompt is added
            after the last turn.

    Returns:
        Keyword arguments of the model's forward; `input_ids` and `attention_mask`
        have shape (rows, tokens), and the last column holds no padding.

    Raises:
        ConfigurationError: A conversation is empty or does not end with the user,
            or holds more clips than the family takes, or the conversations cannot
            share a batch.
        AudioTooLongError: A clip is longer than the model hears.
        AudioFormatError: A clip is not what `load_audio` returns.
    """
    if not conversations:
        raise ConfigurationError("no conversation to answer: give at least one")
    # Before the processor sees them: several cut a long clip, or hear something else in
    # a wrong array, without an error.
    for turns in conversations:
        check_turns(loaded, turns)
    _check_batch(loaded, conversations)
    batch = write_prompts(loaded, conversations)
    # Features become the model's dtype, without which many families fail in bfloat16;
    # token ids stay integers.
    inputs = dict(batch.to(loaded.device, loaded.dtype))
    # The last column is what is read and steered in every row.
    if not bool(inputs["attention_mask"][:, -1].all()):
        raise UnsupportedModelError(
            f"{type(loaded.processor).__name__} pads on the right: the last prompt "
            "token would be padding. Only processors that pad on the left are guarded"
        )
    return inputs


def batch_key(loaded: LoadedModel, turns: Sequence[Turn]) -> Hashable:
    """Return a key: conversations with equal keys give the same answers in a batch.

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


def prompt_length(loaded: LoadedModel, turns: Sequence[Turn]) -> int:
    """Return how many tokens a conversation's prompt has, by making its inputs."""
    check_turns(loaded, turns)
    return int(write_prompts(loaded, [turns])["input_ids"].shape[1])


def audio_token_counts(
    loaded: LoadedModel, inputs: dict[str, torch.Tensor]
) -> list[int]:
    """Return how many prompt tokens of each row stand for audio."""
    token = audio_token_id(loaded)
    ids = inputs["input_ids"]
    if token is None:
        return [0] * ids.shape[0]
    return [int(count) for count in (ids == token).sum(dim=1)]


def audio_token_id(loaded: LoadedModel) -> int | None:
    """Return the id of the token that stands for a piece of audio."""
    for holder in (loaded.model.config, loaded.processor):
        for name in ("audio_token_id", "audio_token_index"):
            found = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    return None


def write_prompts(loaded: LoadedModel, conversations: Sequence[Sequence[Turn]]) -> Any:  # noqa: ANN401
    """Return what the processor makes of conversations, on the CPU, unchecked."""
    messages = [[_message(loaded, turn) for turn in turns] for turns in conversations]
    # A processor that takes no arrays is mistral-common's: it never reads control
    # tokens out of text, and a keyword that it does not know undoes the others.
    options = {"sanitize_control_tokens": True} if _takes_arrays(loaded) else {}
    return loaded.processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={
            # For the text alone: padding that is asked for at large reaches the feature
            # extractor too, and breaks Audio Flamingo, Music Flamingo and GLM-ASR.
            "text_kwargs": {"padding": True, "padding_side": "left"},
            "return_tensors": "pt",
        },
        **options,
    )


def takes_clips(loaded: LoadedModel, turns: Sequence[Turn]) -> bool:
    """Return whether a model takes as many clips as a conversation has."""
    return not loaded.single_audio or sum(len(turn.audio) for turn in turns) <= 1


def check_turns(loaded: LoadedModel, turns: Sequence[Turn]) -> None:
    """Refuse a conversation that the model cannot be asked.

    Raises:
        ConfigurationError: It is empty or does not end with the user, or holds more
            clips than the family takes.
        AudioTooLongError: A clip is longer than the model hears.
        AudioFormatError: A clip is not what `load_audio` returns.
    """
    if not turns or turns[-1].role != "user":
        last = turns[-1].role if turns else "nothing"
        raise ConfigurationError(
            f"a conversation ends with {last!r}: it has to end with a user turn"
        )
    clips = [clip for turn in turns for clip in turn.audio]
    if not takes_clips(loaded, turns):
        raise ConfigurationError(
            f"{loaded.name} takes one clip a conversation, found {len(clips)}: "
            "join the clips, or leave earlier ones out of the history"
        )
    for clip in clips:
        _check_decoded(clip)
        seconds = clip.shape[-1] / loaded.sampling_rate
        if seconds > loaded.max_audio_seconds:
            raise AudioTooLongError(
                f"a clip of {seconds:.1f} s: {loaded.name} hears no more than "
                f"{loaded.max_audio_seconds:g} s; split it"
            )


def _check_decoded(clip: NDArray[np.float32]) -> None:
    # Processors take other arrays without a word and hear something else in them.
    if clip.ndim != 1 or clip.dtype != np.float32 or not np.isfinite(clip).all():
        raise AudioFormatError(
            f"a turn holds a clip of {clip.dtype} with shape {clip.shape}: it has to "
            "be finite mono float32; use load_audio, or SafeAudioLLM.turn"
        )


def _check_batch(loaded: LoadedModel, conversations: Sequence[Sequence[Turn]]) -> None:
    keys = {batch_key(loaded, turns) for turns in conversations}
    if len(keys) > 1:
        raise ConfigurationError(
            f"{loaded.name} hears something else when clips of different length (or "
            "prompts with and without a clip) share a batch: ask in batches of equal "
            "clips, or one by one"
        )


def _takes_arrays(loaded: LoadedModel) -> bool:
    return family_of(loaded.model.config).takes_arrays


def _message(loaded: LoadedModel, turn: Turn) -> dict[str, Any]:
    clips: list[dict[str, Any]] = [
        {"type": "audio", "audio": clip}
        if _takes_arrays(loaded)
        else {"type": "audio", "base64": _wav(clip, loaded.sampling_rate)}
        for clip in turn.audio
    ]
    text = [{"type": "text", "text": turn.text}] if turn.text else []
    # Clips first: calibration reads a clip once and goes on with several texts, and
    # what it reads has to be laid out as a request is.
    return {"role": turn.role, "content": clips + text}


def _wav(clip: NDArray[np.float32], rate: int) -> str:
    import soundfile  # type: ignore[import-untyped]

    file = io.BytesIO()
    # As float32, so that the samples are not rounded on the way.
    soundfile.write(file, clip, rate, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()
