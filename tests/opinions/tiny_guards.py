"""Tiny instances of the architectures that guards have, taught two answers.

Their tokenizer knows every letter and the words that guards answer with. The chat
templates have the form of the models' own, in fewer words.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import torch

CONTROL = {
    "llama": (
        *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|eot_id|>",
    ),
    "granite": ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    "gemma": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
}
ANSWERS = ("unsafe", "safe", "Yes", "No", "yes", "no", "S1", "S10")
HARMFUL, HARMLESS = "Burn the house down.", "Bake the bread now."

LLAMA_TEMPLATE = """\
{{ '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\n' }}\
Task: Check for unsafe content in 'User' messages.
<BEGIN UNSAFE CONTENT CATEGORIES>
S1: Violent Crimes.
<END UNSAFE CONTENT CATEGORIES>
<BEGIN CONVERSATION>
{% for m in messages %}{{ 'User: ' if m['role'] == 'user' else 'Agent: ' }}\
{{ CONTENT }}

{% endfor %}<END CONVERSATION>
Assess ONLY THE LAST User message: 'safe' or 'unsafe', then the categories.\
{{ '<|eot_id|><|start_header_id|>assistant<|end_header_id|>' }}"""
LLAMA_TEXT = LLAMA_TEMPLATE.replace("CONTENT", "m['content'] | trim")
# As the one-billion and the multimodal Llama Guard want them.
LLAMA_PARTS = LLAMA_TEMPLATE.replace("CONTENT", "m['content'][0]['text'] | trim")
GRANITE_RISK = """\
<|start_of_role|>user<|end_of_role|>You are a safety agent; the risk is \
{{ guardian_config['risk_name'] }}.
<start_of_turn>
{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}
{% endfor %}<end_of_turn>
Your answer must be either 'Yes' or 'No'.<|end_of_text|>
{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"""
GRANITE_CRITERIA = """\
<|start_of_role|>user<|end_of_role|>{% for m in messages %}{{ m['content'] }}
{% endfor %}Criteria: {{ guardian_config['criteria_id'] }}.\
{% if not think %} Do not think.{% endif %}<|end_of_text|>
<|start_of_role|>assistant<|end_of_role|>"""
GEMMA_GUIDELINE = """\
<bos>You are a policy expert.
<start_of_turn>
Human Question: {{ messages[-1]['content'] }}
<end_of_turn>
Our safety principle: {{ guideline }}
Does the human question violate it? Start with 'Yes' or 'No'."""


def tokenizer(kind: str, template: str | None) -> Any:  # noqa: ANN401
    """Return a tokenizer of letters, answers and the control tokens of a kind."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    letters = [*string.ascii_letters, *string.digits, *string.punctuation, " ", "\n"]
    vocabulary = [("<unk>", 0.0), *((letter, -5.0) for letter in letters)]
    vocabulary += [(answer, -1.0) for answer in ANSWERS]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    backend.decoder = decoders.Fuse()
    control = CONTROL[kind]
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in control]
    )
    made: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token=control[-1],
        pad_token=control[-1],
        bos_token=control[0],
    )
    made.chat_template = template
    return made


def model(kind: str, words: Any) -> Any:  # noqa: ANN401
    """Return a tiny model of a kind's architecture, its weights random."""
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GraniteConfig,
        GraniteForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    shape: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": 128,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        # Wider than usual, so that the states of two prompts differ.
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    if kind == "granite":
        return GraniteForCausalLM(GraniteConfig(**shape)).eval()
    return Gemma2ForCausalLM(Gemma2Config(**shape, head_dim=32)).eval()


def teach(
    made: Any,  # noqa: ANN401
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> None:
    """Set a model's output layer so that it gives each prompt its answer.

    The states of the random model before each answer token differ; the layer of the
    least norm that tells them apart is found in one step.
    """
    states, said = [], []
    for prompt, answer in rows:
        ids = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            found = made.model(input_ids=ids).last_hidden_state[0]
        states.append(found[len(prompt) - 1 : -1].double())
        said += list(answer)
    wanted = 8.0 * torch.nn.functional.one_hot(
        torch.tensor(said), made.config.vocab_size
    )
    weight = torch.linalg.pinv(torch.cat(states)) @ wanted.double()
    with torch.no_grad():
        made.lm_head.weight.copy_(weight.T)
