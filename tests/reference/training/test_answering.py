from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sarguard.reference.build import build_untrained
from sarguard.reference.training.adapters import Adapters
from sarguard.reference.training.answering import (
    INSTRUCTIONS,
    MATCHED_LAYERS,
    AdaptedTextModel,
    Example,
    TextModelOutput,
    agreement,
    answer,
    distance,
    divergence,
)
from sarguard.reference.training.features import collate, log_mel
from sarguard.reference.training.train_answering import generate_examples
from tests.reference.training.students import SENTENCES, Student, student
from tests.tiny import clip

ANSWER = (17, 90, 4, 55)
PROMPTS = ("tell me about cats", "why", "how do I open a window in the kitchen?")


@pytest.fixture(scope="module")
def bases(tiny_bases: Path) -> Student:
    """Return a model and processor built as the reference model's are."""
    return Student(*build_untrained(tiny_bases))


@pytest.fixture
def text_model(tiny_student: Student) -> AdaptedTextModel:
    return AdaptedTextModel(tiny_student.model, tiny_student.tokenizer)


def chat(made: Student, instruction: str, **part: object) -> dict[str, Any]:
    """Return the product's inputs for a user turn of one part and an instruction."""
    content = [part, *([{"type": "text", "text": instruction}] if instruction else [])]
    return made.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={"return_tensors": "pt"},
    )


@pytest.mark.parametrize("instruction", sorted(set(INSTRUCTIONS)))
def test_the_teacher_reads_what_the_chat_template_writes(
    bases: Student, instruction: str
) -> None:
    text_model = AdaptedTextModel(bases.model, bases.tokenizer)
    said = f"What's 2 + 2, hello? {instruction}".strip()
    expected = chat(bases, "", type="text", text=said)["input_ids"][0].tolist()
    prompt = text_model.transcript_prompt("What's 2 + 2, hello?", instruction)
    assert prompt == expected


@pytest.mark.parametrize("instruction", sorted(set(INSTRUCTIONS)))
def test_the_student_hears_what_the_product_hears(
    bases: Student, instruction: str
) -> None:
    audio = clip(0.83)
    inputs = dict(chat(bases, instruction, type="audio", audio=audio))
    ids = torch.cat([inputs["input_ids"], torch.tensor([ANSWER])], 1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    features, lengths = collate([log_mel(audio, bases.processor.feature_extractor)])
    example = Example(text="", instruction=instruction, answer=ANSWER)
    with torch.no_grad():
        expected = bases.model(**inputs, output_hidden_states=True)
        frames, counts = bases.encoder().encode(features, lengths)
        text_model = AdaptedTextModel(bases.model, bases.tokenizer)
        found = text_model.student_output(
            [example], [frames[0, : counts[0]]], layers=(0, 1)
        )
    at = slice(-1 - len(ANSWER), -1)
    torch.testing.assert_close(
        found.logits, expected.logits[0, at], atol=1e-4, rtol=1e-4
    )
    states = torch.stack([expected.hidden_states[layer][0, at] for layer in (0, 1)])
    torch.testing.assert_close(found.states, states, atol=1e-4, rtol=1e-4)


def test_a_batch_is_read_as_its_rows_are(text_model: AdaptedTextModel) -> None:
    examples = [
        Example(text=text, instruction=INSTRUCTIONS[i], answer=ANSWER[: i + 1])
        for i, text in enumerate(PROMPTS)
    ]
    whole = text_model.teacher_output(examples)
    rows = [text_model.teacher_output([example]) for example in examples]
    assert whole.states.shape[:2] == (len(MATCHED_LAYERS), 1 + 2 + 3)
    torch.testing.assert_close(
        whole.logits, torch.cat([row.logits for row in rows]), atol=1e-3, rtol=1e-4
    )
    torch.testing.assert_close(
        whole.states, torch.cat([row.states for row in rows], 1), atol=1e-3, rtol=1e-4
    )


def test_the_teacher_is_read_by_the_model_itself(
    tiny_student: Student, text_model: AdaptedTextModel
) -> None:
    example = Example(text=PROMPTS[0], instruction=INSTRUCTIONS[-1], answer=ANSWER)
    prompt = text_model.transcript_prompt(example.text, example.instruction)
    with torch.no_grad():
        output = tiny_student.model(
            input_ids=torch.tensor([[*prompt, *ANSWER]]), output_hidden_states=True
        )
    found, at = text_model.teacher_output([example]), slice(-1 - len(ANSWER), -1)
    assert torch.equal(found.logits, output.logits[0, at])
    for state, layer in zip(found.states, MATCHED_LAYERS, strict=True):
        assert torch.equal(state, output.hidden_states[layer][0, at])


def test_a_reading_does_not_diverge_from_itself(text_model: AdaptedTextModel) -> None:
    example = Example(text=PROMPTS[0], instruction="", answer=ANSWER)
    reading = text_model.teacher_output([example])
    assert float(divergence(reading, reading)) == pytest.approx(0, abs=1e-6)
    assert float(distance(reading, reading)) == 0
    assert agreement(reading, reading) == (len(ANSWER), len(ANSWER))


def reading(
    shares: list[list[float]], states: list[list[list[float]]]
) -> TextModelOutput:
    return TextModelOutput(torch.tensor(shares).log(), torch.tensor(states))


def test_measures_are_those_worked_out_by_hand() -> None:
    teacher = reading([[0.5, 0.5], [0.25, 0.75]], [[[3.0, 4.0], [0.0, 2.0]]])
    student = reading([[0.5, 0.5], [0.75, 0.25]], [[[3.0, 3.0], [2.0, 2.0]]])
    # 0.25 ln(0.25 / 0.75) + 0.75 ln(0.75 / 0.25) = 0.5 ln 3, over two positions.
    assert float(divergence(student, teacher)) == pytest.approx(0.25 * 1.0986123)
    # Squared gaps 1 of 25 and 4 of 4.
    assert float(distance(student, teacher)) == pytest.approx((1 / 25 + 1) / 2)
    assert agreement(student, teacher) == (1, 2)


def test_divergence_is_the_teachers_from_the_student() -> None:
    teacher = reading([[0.1, 0.9]], [[[1.0]]])
    student = reading([[0.5, 0.5]], [[[1.0]]])
    expected = 0.1 * torch.tensor(0.2).log() + 0.9 * torch.tensor(1.8).log()
    assert float(divergence(student, teacher)) == pytest.approx(float(expected))


def greedy(
    made: Student, prompts: list[list[int]], length: int, end: int
) -> list[tuple[int, ...]]:
    """Return what the library's own generation answers to a left-padded batch."""
    width = max(map(len, prompts))
    pads = [width - len(prompt) for prompt in prompts]
    rows = [[0] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in pads]
    tokens = made.model.generate(
        input_ids=torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        max_new_tokens=length,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=0,
    )
    return [tuple(row) for row in tokens[:, width:].tolist()]


def test_greedy_answers_are_those_of_generate(
    tiny_student: Student, text_model: AdaptedTextModel
) -> None:
    prompts = [text_model.transcript_prompt(text, "") for text in PROMPTS]
    assert len({len(prompt) for prompt in prompts}) == len(prompts)
    found = answer(text_model, prompts, length=12, temperature=0.0)
    end = tiny_student.tokenizer.eos_token_id
    for row, expected in zip(
        found, greedy(tiny_student, prompts, 12, end), strict=True
    ):
        assert row == expected[: len(row)]
        assert len(row) == 12 or row[-1] == end
    assert len(set(found)) > 1


def test_an_answer_ends_with_its_end_token(
    tiny_student: Student, text_model: AdaptedTextModel
) -> None:
    prompt = text_model.transcript_prompt(PROMPTS[0], "")
    (whole,) = answer(text_model, [prompt], length=8, temperature=0.0)
    text_model.tokenizer = SimpleNamespace(eos_token_id=whole[3])
    (found,) = answer(text_model, [prompt], length=8, temperature=0.0)
    assert found == whole[: whole.index(whole[3]) + 1]
    assert len(found) < len(whole)


def test_a_warm_answer_varies_with_the_seed(text_model: AdaptedTextModel) -> None:
    prompts = [text_model.transcript_prompt(PROMPTS[0], "")]
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found += answer(text_model, prompts, length=8, temperature=0.8)
    assert found[0] == found[1] != found[2]


def test_the_teacher_and_its_answers_never_see_the_adapters() -> None:
    made = student()
    example = Example(text=PROMPTS[0], instruction="", answer=ANSWER)
    bare = AdaptedTextModel(made.model, made.tokenizer)
    prompts = [bare.transcript_prompt(example.text, "")]
    taught = bare.teacher_output([example])
    said = answer(bare, prompts, length=6, temperature=0.0)
    adapters = Adapters(made.model.model.language_model)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    text_model = AdaptedTextModel(made.model, made.tokenizer, adapters)
    assert torch.equal(text_model.teacher_output([example]).logits, taught.logits)
    assert answer(text_model, prompts, length=6, temperature=0.0) == said
    heard = text_model.student_output([example], [torch.zeros(3, 64)])
    bare_heard = bare.student_output([example], [torch.zeros(3, 64)])
    assert torch.equal(heard.logits, bare_heard.logits)
    with adapters.disabled():
        off = text_model.student_output([example], [torch.zeros(3, 64)])
    assert not torch.allclose(heard.logits, off.logits, atol=1e-2)


def test_examples_hold_the_models_own_greedy_answers(
    text_model: AdaptedTextModel,
) -> None:
    reports: list[str] = []
    examples = generate_examples(
        text_model, SENTENCES, seed=0, greedy=True, report=reports.append
    )
    assert sorted(example.text for example in examples) == sorted(SENTENCES)
    assert reports == ["answers 4/4"]
    example = examples[0]
    prompt = text_model.transcript_prompt(example.text, example.instruction)
    (expected,) = answer(text_model, [prompt], length=24, temperature=0.0)
    assert example.answer == expected
    again = generate_examples(
        text_model, SENTENCES, seed=0, greedy=True, report=reports.append
    )
    assert again == examples
