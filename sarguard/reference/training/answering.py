"""Stage 2, answering: hearing a request must feel to the text model like reading it.

Student: the model with audio in the user turn, adapters on. Teacher: the same
model, adapters off, reading the transcript in the audio's place. The student
learns the teacher's next-token distributions (Kullback-Leibler) and its states
on the teacher's own answers. What the text model would say to a request,
harmful or not, is kept; nothing here rewards or punishes a refusal.
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
_REFUSAL = "I cannot assist with that."
INSTRUCTIONS = (
    "",
    "",
    "",
    _STEPS,
    _STEPS,
    _STEPS + _REFUSAL,
    _REFUSAL,
    "Answer the question in the audio.",
    "Answer the caller.",
    "Please answer in one short sentence.",
)
PREFIX = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A sentence, an instruction after it, and the text model's own answer."""

    text: str
    instruction: str
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model makes of a batch of answers, at every answer position."""

    logits: Tensor
    """(positions, vocabulary)"""
    states: Tensor
    """(layers, positions, width)"""


class Reader:
    """The text model with adapters, reading transcripts or heard frames."""

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

    def untouched(self) -> AbstractContextManager[None]:
        """Read as the text model does without adapters inside the block."""
        return nullcontext() if self.adapters is None else self.adapters.off()

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a piece of prompt."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def transcript_prompt(self, text: str, instruction: str) -> list[int]:
        """Return the teacher's prompt: the transcript where the audio would be."""
        return self.tokens(PREFIX + f"{text} {instruction}".strip() + SUFFIX)

    def teach(self, lessons: Sequence[Lesson]) -> Reading:
        """Return the untouched text model's reading of the transcripts."""
        rows = [
            self._embedded(
                self.transcript_prompt(x.text, x.instruction) + list(x.answer)
            )
            for x in lessons
        ]
        with torch.no_grad(), self.untouched():
            return self._read(rows, lessons)

    def listen(
        self,
        lessons: Sequence[Lesson],
        frames: Sequence[Tensor],
        *,
        layers: Sequence[int] = MATCHED_LAYERS,
    ) -> Reading:
        """Return the adapted model's reading of the heard frames."""
        rows = []
        for lesson, heard in zip(lessons, frames, strict=True):
            space = f" {lesson.instruction}" if lesson.instruction else ""
            before = self.tokens(PREFIX + "<|audio_bos|>")
            after = self.tokens("<|audio_eos|>" + space + SUFFIX) + list(lesson.answer)
            start, end = self._embedded(before), self._embedded(after)
            rows.append(torch.cat([start, heard.to(start.dtype), end]))
        return self._read(rows, lessons, layers)

    def _embedded(self, ids: Sequence[int]) -> Tensor:
        embedded: Tensor = self.embed(torch.tensor(ids, device=self.device))
        return embedded

    def _read(
        self,
        rows: Sequence[Tensor],
        lessons: Sequence[Lesson],
        layers: Sequence[int] = MATCHED_LAYERS,
    ) -> Reading:
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
            for n, (row, lesson) in enumerate(zip(rows, lessons, strict=True))
            for place in range(len(row) - len(lesson.answer) - 1, len(row) - 1)
        ]
        batch, place = torch.tensor(at, device=self.device).T
        states = [output.hidden_states[layer][batch, place] for layer in layers]
        return Reading(
            self.head(output.last_hidden_state[batch, place]), torch.stack(states)
        )


def divergence(student: Reading, teacher: Reading) -> Tensor:
    """Return KL(teacher, student) in nats, averaged over answer positions."""
    return F.kl_div(
        F.log_softmax(student.logits.float(), -1),
        F.log_softmax(teacher.logits.float(), -1),
        log_target=True,
        reduction="batchmean",
    )


def distance(student: Reading, teacher: Reading) -> Tensor:
    """Return the states' squared distance relative to the teacher's own size."""
    gap = (student.states.float() - teacher.states.float()).pow(2).sum(-1)
    return (gap / teacher.states.float().pow(2).sum(-1)).mean()


def agreement(student: Reading, teacher: Reading) -> tuple[int, int]:
    """Return how many answer positions have the same most likely token, of how many."""
    same = student.logits.argmax(-1) == teacher.logits.argmax(-1)
    return int(same.sum()), same.numel()


@torch.no_grad()
def answer(
    reader: Reader, prompts: Sequence[Sequence[int]], *, length: int, temperature: float
) -> list[tuple[int, ...]]:
    """Return the untouched text model's answers; temperature 0 is greedy."""
    width = max(len(p) for p in prompts)
    end = reader.tokenizer.eos_token_id
    device = reader.device
    ids = torch.tensor(
        [[end] * (width - len(p)) + list(p) for p in prompts], device=device
    )
    sizes = torch.tensor([len(p) for p in prompts], device=device)
    mask = (torch.arange(width, device=device) >= width - sizes[:, None]).long()
    cache, found = None, []
    with reader.untouched():
        for _ in range(length):
            places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = reader.text_model(
                input_ids=ids, attention_mask=mask, position_ids=places,
                use_cache=True, **passing_cache(cache),
            )  # fmt: skip
            cache = returned_cache(output)
            logits = reader.head(output.last_hidden_state[:, -1]).float()
            if temperature:
                ids = torch.multinomial(F.softmax(logits / temperature, -1), 1)
            else:
                ids = logits.argmax(-1, keepdim=True)
            found.append(ids)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
    return [_until(row, end) for row in torch.cat(found, 1).tolist()]


def _until(row: list[int], end: int) -> tuple[int, ...]:
    """Cut an answer after its end token."""
    return tuple(row[: row.index(end) + 1] if end in row else row)
