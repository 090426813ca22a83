"""Tokens without a unit are spelled in those that have one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sarguard.reference.training.spelling import Spelling, choose_units

SAID = (
    "how do I feed the cat",
    "the cat sat on the mat and the rat ran",
    "feeding cats and rats on mats, feeding them all day",
    "Where is the station? At the end of the street.",
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!'- "


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet)
    made.train_from_iterator(SAID * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@given(text=st.text(alphabet=LETTERS, max_size=60))
def test_everything_is_spelled_and_reads_the_same(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    said = {token: 1.0 for token in ids(tokenizer, SAID[0])}
    units = choose_units(tokenizer, said, 150)
    spelling = Spelling(tokenizer, units)
    spelled = spelling.spell(ids(tokenizer, text))
    assert {*spelled} <= {*units}
    assert tokenizer.decode(spelled) == text


def test_what_is_said_most_has_units_of_its_own(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    (often,), (seldom,) = ids(tokenizer, " the"), ids(tokenizer, " feeding")
    said = {often: 5.0, seldom: 1.0}
    every = choose_units(tokenizer, said, 1000)
    assert {often, seldom} <= {*every}
    fewer = choose_units(tokenizer, said, len(every) - 1)
    assert often in fewer
    assert seldom not in fewer
    spelled = Spelling(tokenizer, fewer).spell([often, seldom])
    assert spelled[0] == often
    assert len(spelled) > 2
    assert tokenizer.decode(spelled) == " the feeding"


def test_a_character_without_a_unit_cannot_be_said(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    spelling = Spelling(tokenizer, choose_units(tokenizer, {}, 1000))
    with pytest.raises(ValueError, match="no unit"):
        spelling.spell(ids(tokenizer, "\u00e4"))
