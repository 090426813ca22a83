"""Loading a guard's model and tokenizer, and telling its version."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sarguard.errors import ConfigurationError
from sarguard.models.transformers_api import commit_of

if TYPE_CHECKING:
    import torch

    from sarguard.models.untyped import PretrainedModel, Tokenizer

_VERSION_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardModel:
    """A guard's model in memory, in eval mode, with its tokenizer."""

    model: PretrainedModel
    tokenizer: Tokenizer
    version: str
    """The commit that it was read from, or what the caller names."""

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        found: torch.device = self.model.device
        return found

    @property
    def max_tokens(self) -> int | None:
        """Return the most tokens that it reads; None where nothing tells."""
        config = self.model.config
        bounds = [
            getattr(config, "max_position_embeddings", None),
            getattr(self.tokenizer, "model_max_length", None),
        ]
        # A tokenizer without a limit says so with a huge number.
        known = [b for b in bounds if isinstance(b, int) and 0 < b < 10**9]
        return min(known, default=None)


def load_guard(
    model: str | os.PathLike[str] | PretrainedModel,
    tokenizer: Tokenizer | None,
    auto_class: str,
    *,
    device: str | None,
    dtype: Any,  # noqa: ANN401
    revision: str | None,
    version: str | None,
) -> GuardModel:
    """Return a model and its tokenizer, read from a path or a hub, or as given.

    Args:
        model: A directory, a model id, or a model in memory.
        tokenizer: Needed beside a model in memory.
        auto_class: Name of transformers' auto class.
        device: Where to put the model; None leaves it where it is.
        dtype: Of the weights that are read; None is the checkpoint's own.
        revision: Branch, tag or commit on a hub.
        version: What stands in records; None is the commit, or "1".

    Raises:
        ConfigurationError: A model in memory came without its tokenizer.
    """
    import transformers

    from sarguard.models.loading import progress_bars

    loaded = model
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        with progress_bars(shown=False):
            loaded = getattr(transformers, auto_class).from_pretrained(
                path, revision=revision, dtype=dtype or "auto"
            )
        if tokenizer is None:
            auto: Any = transformers.AutoTokenizer
            tokenizer = auto.from_pretrained(path, revision=revision)
    if tokenizer is None:
        raise ConfigurationError(
            "a guard's model was given without its tokenizer: give tokenizer= as well"
        )
    found: Any = loaded
    if device is not None:
        found = found.to(device)
    commit = commit_of(found.config)
    return GuardModel(
        model=found.eval(),
        tokenizer=tokenizer,
        version=version or (commit or "1")[:_VERSION_LENGTH],
    )


def without_control_tokens(text: str, tokenizer: Tokenizer) -> str:
    """Return a text without the strings that a tokenizer reads as control tokens.

    Words that end the guard's turn and answer in its place are words all the same.
    """
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    # Some tokenizers add runs of spaces as well, which control nothing.
    known = {t for t in (*added, *tokenizer.all_special_tokens) if t.strip()}
    # The longest first, and again until none is left: removing one may make another.
    ordered = sorted(known, key=len, reverse=True)
    while any(token in text for token in ordered):
        for token in ordered:
            text = text.replace(token, " ")
    return text
