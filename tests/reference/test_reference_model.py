"""The true model, from the true bases: fetched and built as any user's is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sarguard.reference import assemble
from sarguard.reference.assemble import ensure_bases, ensure_reference
from sarguard.reference.bases import SMOLLM2
from sarguard.reference.build import build_untrained

if TYPE_CHECKING:
    from transformers import (
        BatchFeature,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
    )

pytestmark = pytest.mark.reference

PROMPTS = (
    "What is the capital of France?",
    "How do I bake bread with 2 kg of flour, 15 g of salt and a pinch of yeast?",
)


@pytest.fixture(scope="module")
def bases() -> Path:
    return ensure_bases(progress=False)


@pytest.fixture(scope="module")
def built(bases: Path) -> tuple[Any, Any]:
    return build_untrained(bases)


def encode(processor: Qwen2AudioProcessor, *parts: dict[str, Any]) -> BatchFeature:
    return processor.apply_chat_template(
        [{"role": "user", "content": list(parts)}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={"return_tensors": "pt"},
    )


def answer(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    *parts: dict[str, Any],
) -> str:
    inputs = encode(processor, *parts)
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=16)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(new, skip_special_tokens=True))


def test_it_knows_the_capital_of_france(built: tuple[Any, Any]) -> None:
    assert "Paris" in answer(*built, {"type": "text", "text": PROMPTS[0]})


def test_logits_and_tokens_are_those_of_the_gguf_read_by_transformers(
    bases: Path, built: tuple[Any, Any]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, processor = built
    options = {"gguf_file": SMOLLM2.file}
    llama = AutoModelForCausalLM.from_pretrained(bases, dtype="float32", **options)
    tokenizer = AutoTokenizer.from_pretrained(bases, **options)
    for prompt in PROMPTS:
        ids = encode(processor, {"type": "text", "text": prompt})["input_ids"]
        text = processor.tokenizer.decode(ids[0])
        assert tokenizer(text)["input_ids"] == ids[0].tolist()
        with torch.no_grad():
            ours, theirs = model(input_ids=ids).logits, llama(input_ids=ids).logits
        torch.testing.assert_close(
            ours[..., : theirs.shape[-1]], theirs, rtol=0, atol=1e-4
        )


def test_the_shipped_model_is_assembled_once_and_found_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    path = ensure_reference(progress=False)
    assert assemble.inspect_reference(deep=True).fault is None

    def refuse(*_: object) -> None:
        pytest.fail("the second call built or fetched")

    monkeypatch.setattr(assemble, "_bases", refuse)
    start = time.perf_counter()
    assert ensure_reference(offline=True) == path
    assert time.perf_counter() - start < 1.0
    model = Qwen2AudioForConditionalGeneration.from_pretrained(path)
    processor = AutoProcessor.from_pretrained(path)
    assert "Paris" in answer(model, processor, {"type": "text", "text": PROMPTS[0]})
    clip = {"type": "audio", "audio": np.zeros(16_000, np.float32)}
    assert encode(processor, clip)["input_ids"].shape[1] > 25
