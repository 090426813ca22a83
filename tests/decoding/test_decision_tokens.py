"""The first tokens of an answer are chosen greedily where its dose says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sarguard.decoding import Row, Sampling, decode_rows
from sarguard.decoding.sampling import TokenSampler, sample_tokens
from sarguard.models.loading import LoadedModel
from sarguard.steering.dose import DoseRule, DoseSpec
from sarguard.steering.steerer import Steerer
from tests.tiny import ask

CPU = torch.device("cpu")
VOCABULARY = 23
TEXTS = ("Hi.", "What is this sound?", "And now?")
HOT = Sampling(temperature=1.6, seed=5)


def plain_tokens(
    scores: Sequence[Tensor], prompt: Sequence[int], sampling: Sampling, greedy: int
) -> list[int]:
    """Choose tokens by the definitions: penalty, temperature, top-k, top-p, a draw."""
    generator = torch.Generator().manual_seed(sampling.seed or 0)
    seen, chosen = list(prompt), []
    for count, row in enumerate(scores):
        found = row.clone()
        for token in set(seen) if count >= greedy else ():
            value, penalty = found[token], sampling.repetition_penalty
            found[token] = value * penalty if value < 0 else value / penalty
        if count < greedy or not sampling.temperature:
            token = int(found.argmax())
        else:
            found = found / sampling.temperature
            order = sorted(range(len(found)), key=lambda i: -float(found[i]))
            kept = order[: sampling.top_k or len(order)]
            shares = found[kept].softmax(dim=0)
            before = torch.cumsum(shares, dim=0) - shares
            allowed = [
                t for t, b in zip(kept, before, strict=True) if b < sampling.top_p
            ]
            masked = torch.full_like(found, float("-inf"))
            masked[allowed] = found[allowed]
            drawn = torch.multinomial(masked.softmax(dim=0), 1, generator=generator)
            token = int(drawn)
        seen.append(token)
        chosen.append(token)
    return chosen


@given(
    seed=st.integers(0, 10_000),
    greedy=st.integers(0, 9),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_p=st.sampled_from([1.0, 0.8]),
    top_k=st.sampled_from([0, 4]),
    penalty=st.sampled_from([1.0, 1.4]),
)
def test_a_sampler_does_what_the_definitions_say(
    seed: int, greedy: int, temperature: float, top_p: float, top_k: int, penalty: float
) -> None:
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=penalty,
        seed=seed,
    )
    random = torch.Generator().manual_seed(seed + 1)
    scores = [torch.randn(VOCABULARY, generator=random) * 2 for _ in range(8)]
    prompt = [1, 5, 5, 9]
    sampler = TokenSampler(sampling, prompt, CPU, greedy_tokens=greedy)
    found = [sample_tokens([sampler], row[None], [True])[0] for row in scores]
    assert found == plain_tokens(scores, prompt, sampling, greedy)


def test_a_tiny_temperature_does_not_change_the_likeliest_token() -> None:
    # Divided by it, several scores are infinite, and the first of them would win.
    sampler = TokenSampler(
        Sampling(temperature=1e-40, seed=1), [], CPU, greedy_tokens=1
    )
    assert sampler.sample(torch.tensor([1.0, 2.0, 3.0])) == 2


def test_words_of_the_prompt_are_not_taken_from_a_refusal() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0])
    sampling = Sampling(repetition_penalty=9.0)
    plain = TokenSampler(sampling, [2], CPU)
    deciding = TokenSampler(sampling, [2], CPU, greedy_tokens=1)
    assert plain.sample(scores) == 1
    assert deciding.sample(scores) == 2


def answer(
    loaded: LoadedModel,
    steerer: Steerer,
    texts: Sequence[str],
    greedy: Sequence[int],
    sampling: Sampling = HOT,
) -> list[list[int]]:
    rows = [
        Row(
            dose=replace(DoseSpec.constant(0.2), decision_tokens=count),
            max_new_tokens=12,
            sampling=sampling,
        )
        for count in greedy
    ]
    decode_rows(loaded, steerer, ask(loaded, *texts), rows)
    return [row.token_ids for row in rows]


@pytest.mark.parametrize("count", [1, 4, 12])
def test_an_answer_begins_as_the_greedy_one(
    loaded: LoadedModel, steerer: Steerer, count: int
) -> None:
    (greedy,) = answer(loaded, steerer, TEXTS[:1], [0], Sampling())
    (mixed,) = answer(loaded, steerer, TEXTS[:1], [count])
    (drawn,) = answer(loaded, steerer, TEXTS[:1], [0])
    assert drawn[:count] != greedy[:count]
    assert mixed[:count] == greedy[:count]
    assert (mixed == greedy) == (count == 12)


def test_a_seeded_answer_is_the_same_in_any_batch(
    loaded: LoadedModel, steerer: Steerer
) -> None:
    counts = (0, 3, 7)
    together = answer(loaded, steerer, TEXTS, counts)
    for text, count, tokens in zip(TEXTS, counts, together, strict=True):
        assert answer(loaded, steerer, [text], [count]) == [tokens]


def test_the_score_decides_row_by_row(loaded: LoadedModel, steerer: Steerer) -> None:
    rule = DoseRule(floor=0.2, ceiling=0.21, low=0.0, high=1.0)
    scores = iter([-1.0, 0.0, 1.0])
    rows = [
        Row(
            dose=DoseSpec(rule=rule, decision_tokens=5),
            max_new_tokens=6,
            sampling=HOT,
        )
        for _ in TEXTS
    ]
    decode_rows(
        loaded,
        steerer,
        ask(loaded, *TEXTS),
        rows,
        score=lambda _states, _kind: torch.tensor([next(scores)]),
    )
    assert [row.greedy_tokens for row in rows] == [0, 5, 5]
