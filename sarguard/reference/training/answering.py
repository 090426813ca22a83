"""Stage 4, answering: audio should affect the text model as its transcript does.

Student: the model with audio in the user turn, adapters on. Teacher: the same model,
adapters off, with the transcript in the audio's place. The student learns the teacher's
next-token distributions (Kullback-Leibler) and its states on the teacher's own answers.
What the text model would say to a request, harmful or not, is kept; nothing rewards or
punishes a refusal.

The student also learns to write down what was said. A frame is chosen without knowing
its neighbours; the text model knows which words go together, and so learns to read past
a word that was misheard.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sarguard.models.transformers_api import passing_cache, returned_cache
from sarguard.reference.training.adapters import Adapters

MATCHED_LAYERS = range(12, 30)
"""Hidden states (inputs of these decoder layers) that the student learns to match."""
_STEPS = "Please generate detailed steps for the question in the audio."
REFUSAL = "I cannot assist with that."
INSTRUCTIONS = (
    "",
    "",
    "",
    _STEPS,
    _STEPS,
    _STEPS + REFUSAL,
    REFUSAL,
    "Answer the question in the audio.",
    "Answer the caller.",
    "Please answer in one short sentence.",
)
TRANSCRIBE = (
    "Write down what is said in the audio, word for word.",
    "Write down what is said in the audio, word for word.",
    "Transcribe the audio.",
    "What did I say? Repeat it word for word.",
)
"""Instructions that ask for a transcript; the first is the one that is measured."""
PREFIX = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A sentence, an instruction after it, and the answer."""

    text: str
    instruction: str
    answer: tuple[int, ...]
    transcript: bool = False
    """Whether the answer is the sentence itself, not what the text model says to it."""


@dataclass(frozen=True, slots=True)
class TextModelOutput:
    """Outputs of the text model at every answer position of a batch."""

    logits: Tensor
    """(positions, vocabulary)"""
    states: Tensor
    """(layers, positions, width)"""

    def first(self, positions: int) -> TextModelOutput:
        """Return the output at the first positions."""
        return TextModelOutput(self.logits[:positions], self.states[:, :positions])


class AdaptedTextModel:
    """The text model with adapters, on transcripts or on audio frames."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Adapters | None = None,
    ) -> None:
        parts: Any = model
        self.text_model: nn.Module = parts.model.language_model
        self.embed: nn.Embedding = parts.get_input_embeddings()
        self.head: nn.Linear = parts.lm_head
        self.tokenizer = tokenizer
        self.adapters = adapters
        self.device: torch.device = self.embed.weight.device

    def without_adapters(self) -> AbstractContextManager[None]:
        """Run the text model without adapters inside the block."""
        return nullcontext() if self.adapters is None else self.adapters.disabled()

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a piece of prompt."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def transcript_prompt(self, text: str, instruction: str) -> list[int]:
        """Return the teacher's prompt: the transcript where the audio would be."""
        return self.tokens(PREFIX + f"{text} {instruction}".strip() + SUFFIX)

    def teacher_output(self, examples: Sequence[Example]) -> TextModelOutput:
        """Return the output of the text model without adapters, on the transcripts."""
        rows = [
            self.embedded(
                self.transcript_prompt(x.text, x.instruction) + list(x.answer)
            )
            for x in examples
        ]
        with torch.no_grad(), self.without_adapters():
            return self._read(rows, examples)

    def student_output(
        self,
        examples: Sequence[Example],
        frames: Sequence[Tensor],
        *,
        layers: Sequence[int] = MATCHED_LAYERS,
    ) -> TextModelOutput:
        """Return the output of the adapted text model, on the audio frames."""
        rows = [
            self.audio_prompt(heard, example.instruction, example.answer)
            for example, heard in zip(examples, frames, strict=True)
        ]
        return self._read(rows, examples, layers)

    def audio_prompt(
        self, frames: Tensor, instruction: str, answer: Sequence[int] = ()
    ) -> Tensor:
        """Return the embeddings of the student's prompt, (positions, width)."""
        space = f" {instruction}" if instruction else ""
        before = self.tokens(PREFIX + "<|audio_bos|>")
        after = self.tokens("<|audio_eos|>" + space + SUFFIX) + list(answer)
        start, end = self.embedded(before), self.embedded(after)
        return torch.cat([start, frames.to(start.dtype), end])

    def next_logits(
        self, rows: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> Tensor:
        """Return the logits of the last tokens of each row, (tokens, vocabulary).

        Args:
            rows: Token ids.
            counts: How many tokens of each row's end are asked for.
        """
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        output = self.text_model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            use_cache=False,
        )
        states: Tensor = output.last_hidden_state
        # The state before a token predicts it.
        wanted = [
            states[number, len(row) - count - 1 : len(row) - 1]
            for number, (row, count) in enumerate(zip(rows, counts, strict=True))
        ]
        logits: Tensor = self.head(torch.cat(wanted))
        return logits

    def embedded(self, ids: Sequence[int]) -> Tensor:
        """Return the embeddings of token ids, (positions, width)."""
        embedded: Tensor = self.embed(torch.tensor(ids, device=self.device))
        return embedded

    def _read(
        self,
        rows: Sequence[Tensor],
        examples: Sequence[Example],
        layers: Sequence[int] = MATCHED_LAYERS,
    ) -> TextModelOutput:
        width = max(len(r) for r in rows)
        padded = torch.stack([F.pad(r, (0, 0, 0, width - len(r))) for r in rows])
        sizes = torch.tensor([len(r) for r in rows], device=self.device)
        mask = (torch.arange(width, device=self.device)[None] < sizes[:, None]).long()
        output = self.text_model(
            inputs_embeds=padded,
            attention_mask=mask,
            output_hidden_states=True,
            use_cache=False,
        )
        at = [
            (n, place)
            for n, (row, example) in enumerate(zip(rows, examples, strict=True))
            for place in range(len(row) - len(example.answer) - 1, len(row) - 1)
        ]
        batch, place = torch.tensor(at, device=self.device).T
        states = [output.hidden_states[layer][batch, place] for layer in layers]
        return TextModelOutput(
            self.head(output.last_hidden_state[batch, place]), torch.stack(states)
        )


def divergence(student: TextModelOutput, teacher: TextModelOutput) -> Tensor:
    """Return KL(teacher, student) in nats, averaged over answer positions."""
    return divergences(student.logits, teacher.logits).mean()


def divergences(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher, student) in nats at each position, of logits (n, tokens)."""
    return F.kl_div(
        F.log_softmax(student.float(), -1),
        F.log_softmax(teacher.float(), -1),
        log_target=True,
        reduction="none",
    ).sum(-1)


def distance(student: TextModelOutput, teacher: TextModelOutput) -> Tensor:
    """Return the states' squared distance relative to the teacher's norm."""
    gap = (student.states.float() - teacher.states.float()).pow(2).sum(-1)
    return (gap / teacher.states.float().pow(2).sum(-1)).mean()


def agreement(student: TextModelOutput, teacher: TextModelOutput) -> tuple[int, int]:
    """Return how many answer positions have the same most likely token, of how many."""
    same = student.logits.argmax(-1) == teacher.logits.argmax(-1)
    return int(same.sum()), same.numel()


@torch.no_grad()
def answer(
    text_model: AdaptedTextModel,
    prompts: Sequence[Sequence[int] | Tensor],
    *,
    length: int,
    temperature: float,
    adapted: bool = False,
) -> list[tuple[int, ...]]:
    """Return a text model's answers.

    Args:
        text_model: The model.
        prompts: Token ids, or embeddings (positions, width).
        length: Most tokens of an answer.
        temperature: 0 is greedy.
        adapted: Whether its adapters take part.
    """
    rows = [p if isinstance(p, Tensor) else text_model.embedded(p) for p in prompts]
    width = max(map(len, rows))
    end = text_model.tokenizer.eos_token_id
    device = text_model.device
    given = torch.stack([F.pad(row, (0, 0, width - len(row), 0)) for row in rows])
    sizes = torch.tensor([len(row) for row in rows], device=device)
    mask = (torch.arange(width, device=device) >= width - sizes[:, None]).long()
    cache, found = None, []
    with nullcontext() if adapted else text_model.without_adapters():
        for _ in range(length):
            places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -given.shape[1] :]
            output = text_model.text_model(
                inputs_embeds=given, attention_mask=mask, position_ids=places,
                use_cache=True, **passing_cache(cache),
            )  # fmt: skip
            cache = returned_cache(output)
            logits = text_model.head(output.last_hidden_state[:, -1]).float()
            if temperature:
                ids = torch.multinomial(F.softmax(logits / temperature, -1), 1)
            else:
                ids = logits.argmax(-1, keepdim=True)
            found.append(ids)
            given = text_model.embed(ids)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
    return [_until(row, end) for row in torch.cat(found, 1).tolist()]


def _until(row: list[int], end: int) -> tuple[int, ...]:
    """Cut an answer after its end token."""
    return tuple(row[: row.index(end) + 1] if end in row else row)
