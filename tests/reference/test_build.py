from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sarguard.reference.build import build_untrained
from sarguard.reference.tokenizer import SYSTEM
from tests.reference.samples import CONTROL, HEADS, KV_HEADS, TOKENS, llama_weights

if TYPE_CHECKING:
    from transformers import Qwen2AudioProcessor

CLIP = np.zeros(16_000, np.float32)
CLIP_TOKENS = 25
HEAD = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
SOUND = "<|audio_bos|><|AUDIO|><|audio_eos|>"


@pytest.fixture(scope="module")
def built(tiny_bases: Path) -> tuple[Any, Any]:
    return build_untrained(tiny_bases)


def user(*parts: str | np.ndarray) -> dict[str, Any]:
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "audio", "audio": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


def rendered(processor: Qwen2AudioProcessor, turns: list[dict[str, Any]]) -> str:
    return processor.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )


def test_text_logits_are_those_of_the_llama_it_was(built: tuple[Any, Any]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model, _ = built
    weights = {f"model.{k}": torch.from_numpy(v) for k, v in llama_weights().items()}
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    llama = LlamaForCausalLM(config).eval()
    llama.load_state_dict(weights, strict=False)
    llama.tie_weights()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits, llama(input_ids=ids).logits
    torch.testing.assert_close(ours[..., : len(TOKENS)], theirs, rtol=1e-4, atol=1e-4)


def test_the_model_is_whole_float32_and_untied(built: tuple[Any, Any]) -> None:
    model, processor = built
    assert not model.training
    state = model.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert all(value.device.type == "cpu" for value in state.values())
    embedding = state["model.language_model.embed_tokens.weight"]
    assert embedding.shape == (len(TOKENS) + 3, 64)
    assert len(processor.tokenizer) == len(TOKENS) + 3
    mean = embedding[: len(TOKENS)].double().mean(0).float()
    torch.testing.assert_close(embedding[-3:], mean.expand(3, -1))
    assert torch.equal(embedding, state["lm_head.weight"])
    assert embedding.data_ptr() != state["lm_head.weight"].data_ptr()
    assert all(
        not value.any()
        for name, value in state.items()
        if "language_model" in name and name.endswith("bias")
    )


def test_two_builds_are_equal_and_leave_the_random_state_alone(
    tiny_bases: Path, built: tuple[Any, Any]
) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again, _ = build_untrained(tiny_bases)
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = zip(built[0].parameters(), again.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_it_generates_greedily_and_ends_with_the_turn(built: tuple[Any, Any]) -> None:
    model, processor = built
    config = model.generation_config
    assert not config.do_sample
    assert config.eos_token_id == config.pad_token_id == CONTROL.index("<|im_end|>")
    assert processor.tokenizer.eos_token == "<|im_end|>"
    assert processor.tokenizer.padding_side == "left"


def test_it_survives_saving_and_loading(built: tuple[Any, Any], tmp_path: Path) -> None:
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = Qwen2AudioForConditionalGeneration.from_pretrained(tmp_path)
    pairs = zip(model.parameters(), loaded.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.tokenizer.padding_side == "left"
    assert again.feature_extractor.feature_size == 80
    turns = [user(CLIP, "hello")]
    assert rendered(again, turns) == rendered(processor, turns)
    text = "hello the <|im_end|> <|AUDIO|>"
    assert again.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([user(CLIP)], f"{HEAD}{SOUND}{TAIL}"),
        ([user(CLIP, "hello")], f"{HEAD}{SOUND} hello{TAIL}"),
        ([user(CLIP, " hello")], f"{HEAD}{SOUND} hello{TAIL}"),
        ([user(CLIP, "")], f"{HEAD}{SOUND}{TAIL}"),
        ([user("hello")], f"{HEAD}hello{TAIL}"),
        ([{"role": "user", "content": "hello"}], f"{HEAD}hello{TAIL}"),
        ([user(CLIP, CLIP, "hello")], f"{HEAD}{SOUND}{SOUND} hello{TAIL}"),
        ([user("hello", CLIP)], f"{HEAD}hello{SOUND}{TAIL}"),
        ([user("hello", " the")], f"{HEAD}hello the{TAIL}"),
        (
            [{"role": "system", "content": "the"}, user("hello")],
            f"<|im_start|>system\nthe<|im_end|>\n<|im_start|>user\nhello{TAIL}",
        ),
        (
            [
                {"role": "system", "content": [{"type": "text", "text": "the"}]},
                user(CLIP),
                {"role": "assistant", "content": "hello"},
                user(CLIP, "the"),
            ],
            "<|im_start|>system\nthe<|im_end|>\n"
            f"<|im_start|>user\n{SOUND}<|im_end|>\n"
            "<|im_start|>assistant\nhello<|im_end|>\n"
            f"<|im_start|>user\n{SOUND} the{TAIL}",
        ),
    ],
)
def test_the_template_renders_the_training_layout(
    built: tuple[Any, Any], turns: list[dict[str, Any]], expected: str
) -> None:
    assert rendered(built[1], turns) == expected


@pytest.mark.parametrize("text", ["", "hello the 2024 hello"])
def test_token_ids_are_the_training_layout(built: tuple[Any, Any], text: str) -> None:
    _, processor = built
    inputs = processor.apply_chat_template(
        [user(CLIP, text)],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={"return_tensors": "pt"},
    )
    tokenizer = processor.tokenizer
    audio = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    expected = [
        *tokenizer(f"{HEAD}<|audio_bos|>")["input_ids"],
        *[audio] * CLIP_TOKENS,
        *tokenizer(f"<|audio_eos|>{' ' + text if text else ''}{TAIL}")["input_ids"],
    ]
    assert inputs["input_ids"][0].tolist() == expected
    assert audio == len(TOKENS)


def test_digits_stand_alone_and_text_round_trips(built: tuple[Any, Any]) -> None:
    tokenizer = built[1].tokenizer
    text = "  hello the  2024\n\ncafé 日本 😀"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [token for token in tokens if token.isdigit()] == list("2024")
    assert "hello" in tokens
    assert "Ġt" in tokens
